"""Carries what waits in an outbox to its target: one relay at a time, in order, for as long as an outage lasts.

beat -> lead -> read the oldest -> append to the target -> forget what is stored there

Which relay leads is a matter of thrift, not of safety: whoever reads from the oldest on, and goes on only when that is
stored, cannot break an order, and the target stores each id once.  So two that both believe to lead, or one that was
frozen and wakes up, do no harm, and a relay that dies leaves nothing behind that anybody would have to wait for.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from .dice import dice
from .errors import PostbusError, TransportBroken, TransportError
from .forward import Forward, Round
from .hold import OUTBOX, Hold, spool_of
from .inspection import inspectable
from .observe import Counters, log
from .spool import Waiting
from .transport import Transport, WorkerInfo

__all__ = ["Relay", "RelaySettings"]

_BACKOFF = (0.05, 2.0)
# How long an idle relay waits for the bell: a commit in somebody else's transaction rings none.
_IDLE = (0.01, 0.25)
# A relay that was killed is missed after so long, at most.
_LONGEST_LEASE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """How a relay runs.

    Attributes:
        batch: events that are read and appended at once.
        lease: seconds after which another relay takes the place of one that vanished; 10 at most.
        grace: seconds that the batch under way gets at shutdown.
        name: a name for people.
        version: of the program.
    """

    batch: int = 500
    lease: float = _LONGEST_LEASE
    grace: float = 25.0
    name: str | None = None
    version: str = ""


class Relay:
    """One process's relay.

    Args:
        store: the outbox's transport.
        target: returns the transport that events go to, open and declared to.
        require_subscription: as of the bus: what no subscription takes is a dead letter of the outbox.

    Attributes:
        failure: what ended it, or None.
        trouble: why nothing can be relayed at the moment; empty when all is well.
        leads: whether it is the one that relays.
    """

    def __init__(
        self,
        store: Transport,
        target: Callable[[], Awaitable[Transport]],
        *,
        settings: RelaySettings,
        counters: Counters,
        require_subscription: bool = False,
    ) -> None:
        self.settings = settings
        self.owner = f"{settings.name or socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"
        self.failure: BaseException | None = None
        self.trouble = ""
        self.leads = False
        self._store = store
        self._target = target
        self._counters = counters
        self._require = require_subscription
        self._lease = min(settings.lease, _LONGEST_LEASE)
        self._state: Literal["new", "running", "draining", "gone"] = "new"
        self._tasks: set[asyncio.Task[Any]] = set()
        self._hold = Hold(spool_of(store), self._note_trouble)
        self._forward: Forward | None = None
        self._started_at = datetime.now(UTC)
        self._beaten_at = 0.0
        self._resting = False
        self._pause = self._idle = 0.0

    # -- life

    async def start(self) -> None:
        """Begin: other relays see it at once, and the first of them leads."""
        self._ended = asyncio.get_running_loop().create_future()
        self._turn = asyncio.Event()
        self._state = "running"
        self._renewer = self._store.renewer()
        self._voice = ThreadPoolExecutor(1, thread_name_prefix="postbus-relay")
        self._spawn(self._lead())
        self._carrying = self._spawn(self._carry())

    async def stop(self, grace: float | None = None) -> None:
        """End the batch under way within `grace`, and hand over to the next relay.  Idempotent."""
        if self._state in ("new", "gone"):
            self._state = "gone"
            return
        self._state = "draining"
        self._turn.set()
        if not self.trouble and not self._resting:
            await asyncio.wait([self._carrying], timeout=self.settings.grace if grace is None else grace)
        self._state = "gone"
        await self._hold.close()  # what is left waits in the outbox for the next relay
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        with suppress(PostbusError):
            await self._say()
        self._voice.submit(self._renewer.close)
        self._voice.shutdown(wait=False)
        if not self._ended.done():
            self._ended.set_result(None)

    async def ended(self) -> None:
        """Wait until it was stopped, or raise what ended it."""
        await asyncio.shield(self._ended)
        if self.failure is not None:
            raise self.failure

    def info(self) -> WorkerInfo:
        """What it says of itself at each beat."""
        return WorkerInfo(
            owner=self.owner,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=self.settings.version,
            started_at=self._started_at,
            subscriptions=(OUTBOX,),
            concurrency=self.settings.batch,
            busy=self.running,
            state="running" if self._state == "new" else self._state,
            trouble=self.trouble,
        )

    @property
    def idle(self) -> bool:
        """Whether it holds nothing, and found nothing when it looked last; or another one leads."""
        return (self._resting or not self.leads) and not self._hold.numbers

    @property
    def running(self) -> int:
        """How many events are under way."""
        return len(self._hold.numbers)

    def healthy(self) -> bool:
        """Whether it does its work, or waits for its turn or for the end of an outage."""
        return self._state == "running" and self.failure is None

    # -- who relays

    async def _lead(self) -> None:
        """Beat from the event loop itself: a loop that does not turn relays nothing, and must not keep others from it.

        The first of those that can reach the target leads.
        """
        while True:
            pause = self._lease / 3
            try:
                await self._say()
                self._beaten_at = time.monotonic()
                relays = [one for one in await inspectable(self._store).workers() if OUTBOX in one.subscriptions]
                first = min(relays, key=_rank, default=None)
                self._take_turn(mine=first is None or first.owner == self.owner)
                if self.trouble and not self.leads:
                    await self._look_again()
            except TransportBroken:
                raise
            except TransportError as error:
                self._note_trouble(f"the outbox cannot be reached: {error}")
                if time.monotonic() - self._beaten_at > self._lease:
                    self._take_turn(mine=False)
                pause /= 4
            await asyncio.sleep(min(pause, 1.0) * dice.uniform(0.8, 1.0))

    async def _say(self) -> None:
        info = self.info()

        def say() -> None:
            self._renewer.renew((), self._lease)
            self._renewer.beat(info)

        await asyncio.get_running_loop().run_in_executor(self._voice, say)

    def _take_turn(self, *, mine: bool) -> None:
        if mine and not self.leads:
            log.info("relay %s leads", self.owner)
        self.leads = mine
        if mine:
            self._turn.set()
        elif self._state == "running":
            self._turn.clear()

    async def _look_again(self) -> None:
        """Somebody else leads, who may have a better way to the target: ours may be free again."""
        with suppress(TransportError):
            await inspectable(await self._target()).ping()
            self._note_trouble("")

    # -- the road

    async def _carry(self) -> None:
        while self._state == "running":
            if not self.leads:
                self._hold.let_go()
                await self._turn.wait()
                continue
            rows = await self._read()
            if rows:
                self._idle = 0.0
                await self._round(rows)
            else:
                await self._rest()
        self._hold.let_go()

    async def _read(self) -> Sequence[Waiting]:
        """What is left of the last batch, and what waits behind it."""
        try:
            return await self._hold.next(self.settings.batch, ahead=not self._pause)
        except TransportBroken:
            raise
        except TransportError as error:
            self._note_trouble(f"the outbox cannot be reached: {error}")
            await self._back_off()
            return self._hold.left

    async def _round(self, rows: Sequence[Waiting]) -> None:
        self._resting = False
        try:
            self._forward = self._forward or await self._open()
            found = await self._forward.round(rows, self._hold.delay_of)
        except TransportBroken:
            raise
        except TransportError as error:
            found = Round(left=list(rows), error=error)
        self._count(found)
        await self._hold.take_back(rows, found)
        if found.left:
            self._note_trouble(str(found.error))
            if not found.stored:  # after an outage, what was declared may be gone
                self._forward = None if self._pause else self._forward
            await self._back_off()
        else:
            self._pause = 0.0
            self._note_trouble("")

    async def _open(self) -> Forward:
        return Forward(await self._target(), require_subscription=self._require)

    async def _back_off(self) -> None:
        self._counters.relay_errors += 1
        self._pause = min(max(2 * self._pause, _BACKOFF[0]), _BACKOFF[1])
        await asyncio.sleep(self._pause * dice.uniform(0.8, 1.2))

    async def _rest(self) -> None:
        """Nothing waits.  A commit in somebody else's transaction rings no bell: so look now and then."""
        self._resting = True
        self._idle = min(max(2 * self._idle, _IDLE[0]), _IDLE[1])
        try:
            await self._store.wait((OUTBOX,), self._idle)
        except TransportBroken:
            raise
        except TransportError:
            await self._back_off()

    def _count(self, found: Round) -> None:
        self._counters.relayed += len(found.stored)
        self._counters.relay_duplicates += found.duplicates
        self._counters.relay_refused += len(found.refused)
        self._counters.unrouted += found.unrouted
        for number, reason in found.refused:
            log.error("event %d of the outbox is a dead letter now, which can be replayed: %s", number, reason)

    # -- failing

    def _note_trouble(self, trouble: str) -> None:
        if trouble and not self.trouble:
            log.warning("nothing can be relayed: %s; trying on", trouble)
        elif self.trouble and not trouble:
            log.info("relaying works again")
        self.trouble = trouble

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and self.failure is None and self._state != "gone":
            self.failure = error
            log.critical("the relay failed: %s: %s", type(error).__name__, error)
            if not self._ended.done():
                self._ended.set_result(None)


def _rank(relay: WorkerInfo) -> tuple[bool, bool, datetime, str]:
    return relay.state != "running", bool(relay.trouble), relay.started_at, relay.owner
