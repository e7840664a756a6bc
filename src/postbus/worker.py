"""One process' share of a bus's work: ties claims, slots, settles and leases together; start, suspects, shutdown.

doorbell -> claims -> lane.ready -> a slot runs it -> settler -> the slot is free again
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from .claims import Claims
from .delivery import Delivery, Outcome
from .dispatch import Dispatch
from .lanes import Lane
from .leases import Leases
from .observe import Counters, Observer, log
from .settler import Settler
from .slots import Isolate, Slots
from .tally import Tally
from .threads import Threads
from .transport import Following, Settle, Transport, WorkerInfo

__all__ = ["Worker", "WorkerSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker runs.

    Attributes:
        concurrency: deliveries that run at once, in this process.
        lease: seconds after which another worker may take what this one held, if it does not renew.
        grace: seconds that running subscribers get at shutdown.
        name: a name for people; the worker's own identity is new at every start.
        version: of the program.
    """

    concurrency: int = 100
    lease: float = 30.0
    grace: float = 25.0
    name: str | None = None
    version: str = ""

    @property
    def poll(self) -> float:
        """Seconds after which a lane is claimed from although no bell rang."""
        return min(5.0, max(0.05, self.lease / 4))


class Worker:
    """Runs the subscribers of one bus in this process."""

    # Asked for by an operator: to claim nothing for a while, or never again.
    _calm = False
    retired = False

    def __init__(
        self,
        transport: Transport,
        dispatches: Sequence[Dispatch],
        *,
        settings: WorkerSettings,
        counters: Counters,
        declare: Callable[[], Awaitable[None]],
        threads: Threads,
        tally: Tally,
        observers: Sequence[Observer] = (),
        isolate: Isolate | None = None,
    ) -> None:
        self.settings = settings
        self.owner = f"{settings.name or socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"
        self.failure: BaseException | None = None
        self._transport = transport
        self._counters, self._threads = counters, threads
        self._lanes = {d.subscriber.name: Lane(d, tally, isolated=isolate is not None) for d in dispatches}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._state: Literal["new", "running", "draining", "gone"] = "new"
        self._quiet: list[asyncio.Future[None]] = []  # who waits until nothing runs
        self._started_at = datetime.now(UTC)
        self._settler = Settler(
            transport,
            counters,
            tuple(observers),
            freed=self._freed,
            due=self._due_in,
            settle_ordered=self._settle_ordered,
        )
        self._slots = Slots(
            settings.concurrency,
            settings.lease,
            settler=self._settler,
            counters=counters,
            observers=tuple(observers),
            isolate=isolate,
            still_leased=self._still_leased,
            feed=self._feed,
            feed_here=None if transport.traits.coalesce else self._feed_here,
            failed=self._fail,
            rested=self._tell_quiet,
        )
        self._claims = Claims(
            transport,
            self._lanes,
            counters,
            owner=self.owner,
            lease=settings.lease,
            poll=settings.poll,
            declare=declare,
            spawn=self._spawn,
            open=self._open,
            ready=self._slots.ready,
            refuse=self._slots.release,
            suspects=self._note_suspects,
        )

    # Its parts know each other only through these.

    def _freed(self, lanes: Sequence[Lane], slots: int) -> None:
        self._slots.freed(lanes, slots)

    def _due_in(self, lane: Lane, after: float) -> None:
        self._claims.due_in(lane, after)

    def _open(self) -> bool:
        """Whether it wants work now."""
        return self._state == "running" and not self._calm and not self._slots.holding

    async def _settle_ordered(
        self, pairs: Sequence[tuple[Delivery, Outcome]], lanes: Sequence[Lane]
    ) -> Sequence[Settle]:
        """Settle, and take what comes next of the keys that this frees; each takes the room of the one before it."""
        if self._following is None or not self._open():
            for lane in lanes:  # a claim sent behind it finds the same
                self._claims.ring(lane)
            return await self._transport.settle(pairs)
        began, lease = time.monotonic(), self.settings.lease
        results, followers = await self._following.settle_and_follow(pairs, owner=self.owner, lease=lease)
        for delivery in followers:
            lane = self._lanes[delivery.subscription]
            if self._open():
                lane.take_in((delivery,), time.monotonic(), began + lease)
            else:
                self._slots.release(lane, (delivery,))
        return results

    def _feed(self, lane: Lane) -> None:
        self._claims.feed(lane)

    async def _feed_here(self, lane: Lane) -> None:
        await self._claims.feed_here(lane)

    # -- life

    async def start(self) -> None:
        """Begin to claim and run."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._following = self._transport if isinstance(self._transport, Following) else None
        self._state = "running"
        await self._claims.declare()
        self._leases = Leases(
            self._transport.renewer(),
            self.settings.lease,
            held=self._held,
            info=self.info,
            lost=lambda lost: self._from_thread(self._note_lost, lost),
            failed=lambda error: self._from_thread(self._fail, error),
            counters=self._counters,
        )
        self._leases.start()
        self._spawn(self._settler.run())
        self._claims.start()

    def halt(self) -> None:
        """Start nothing more, and hand back what has not started; what runs goes on.  `stop` ends it."""
        if self._state == "running":
            self._state = "draining"
            self._slots.halt()
            self._hand_back()

    def _hand_back(self) -> None:
        for lane in self._lanes.values():
            lane.queued = False
            self._slots.release(lane, lane.give_out())

    def quiet(self) -> None:
        """Claim nothing more and hand back what has not started, until `resume`; what runs goes on."""
        if self._state == "running":
            self._calm = True
            self._hand_back()

    def resume(self) -> None:
        """Claim again."""
        self._calm = False
        for lane in self._lanes.values():
            lane.suspects = False  # the next claim says whether there are some
            self._claims.ring(lane)

    async def retire(self) -> None:
        """Stop for good: whoever started it is told, and does not start another in its place."""
        self.retired = True
        await self.stop()

    async def stop(self, grace: float | None = None) -> None:
        """Stop claiming, hand back what has not started, let the running finish within `grace`, cancel the rest.

        Idempotent.  What is still running afterwards is not settled: its lease ends by itself.
        """
        if self._state in ("new", "gone"):
            self._state = "gone"
            return
        until = time.monotonic() + (self.settings.grace if grace is None else grace)
        self.halt()
        await self._at_rest(until)
        self._slots.cancel()
        await self._at_rest(time.monotonic() + 1.0)
        self._state = "gone"
        self._claims.close()
        tasks = [*self._tasks, *self._slots.close()]
        for task in self._tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=0.5)
        self._threads.close()
        await asyncio.to_thread(self._leases.stop)
        if not self._ended.done():
            self._ended.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Something beside it that it must not go on without has ended: it says so and stops."""
        self._fail(error)

    async def ended(self) -> None:
        """Wait until the worker was stopped, or raise what ended it."""
        await asyncio.shield(self._ended)
        if self.failure is not None:
            raise self.failure

    def info(self) -> WorkerInfo:
        """What it says of itself at each beat.  Called from the lease thread too."""
        return WorkerInfo(
            owner=self.owner,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=self.settings.version,
            started_at=self._started_at,
            subscriptions=tuple(self._lanes),
            concurrency=self.settings.concurrency,
            busy=self.settings.concurrency - self._slots.free,
            state=self._said(),
        )

    def _said(self) -> Literal["running", "quiet", "draining", "gone"]:
        if self._state == "new":
            return "running"
        return "quiet" if self._calm and self._state == "running" else self._state

    @property
    def running(self) -> int:
        """How many deliveries run now."""
        return self._slots.running

    @property
    def idle(self) -> bool:
        """Whether it holds nothing, and knows of nothing to claim."""
        return self._settler.empty and not any(lane.busy for lane in self._lanes.values())

    def healthy(self) -> bool:
        """Whether it does its work: nothing failed, and its loops and its lease thread run."""
        return self._state == "running" and self.failure is None and self._leases.alive

    # -- suspects

    def _note_suspects(self, lane: Lane) -> None:
        if not lane.suspects:
            lane.suspects = True
            if sum(1 for other in self._lanes.values() if other.suspects) == 1:
                self._spawn(self._clear_suspects())

    async def _clear_suspects(self) -> None:
        """Run what vanished workers held, one at a time with nothing beside it: whoever kills its process is known."""
        while (
            self._state == "running"
            and not self._calm
            and (lanes := [lane for lane in self._lanes.values() if lane.suspects])
        ):
            for lane in lanes:
                if not self._slots.isolates:
                    self._slots.holding = True
                    await self._at_rest(None)
                for delivery in await self._claims.alone(lane):
                    if self._state == "running":
                        await self._slots.run_alone(lane, delivery)
                    else:
                        self._slots.release(lane, [delivery])
        self._slots.holding = False
        for lane in self._lanes.values():
            self._claims.feed(lane)
            self._slots.ready(lane)

    # -- letting go

    async def _at_rest(self, until: float | None) -> None:
        """Wait until nothing runs, is claimed or unsettled, or until then."""
        while self._moves():
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            waiter = self._loop.create_future()
            self._quiet.append(waiter)
            await asyncio.wait([waiter], timeout=left)

    def _moves(self) -> bool:
        if not self._settler.empty or any(lane.claiming for lane in self._lanes.values()):
            return True
        return self._slots.busy

    def _tell_quiet(self) -> None:
        if not self._quiet:
            return
        waiting, self._quiet = self._quiet, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # -- leases

    def _held(self) -> list[Delivery]:
        """What is leased here and to be renewed; called from the lease thread."""
        held = [delivery for lane in self._lanes.values() for delivery in list(lane.ready)]
        return held + self._slots.held() + self._settler.unsettled()

    def _still_leased(self, lane: Lane) -> bool:
        """Whether what is ready may start.

        Else this process stood still for longer than the lease, and what had not started is handed back, not run.
        """
        now = time.monotonic()
        if now < lane.sure_until:
            return True
        renewed = self._leases.renewed_at
        if renewed > lane.arrived and now < renewed + self.settings.lease:
            lane.sure_until = renewed + self.settings.lease
            return True
        self._slots.release(lane, lane.give_out())
        return False

    def _note_lost(self, lost: Collection[Delivery]) -> None:
        """Drop what is no longer ours and has not started; what runs is fenced off at its settle."""
        gone = {id(delivery) for delivery in lost}
        for lane in self._lanes.values():
            held = lane.give_out()
            kept = [delivery for delivery in held if id(delivery) not in gone]
            self._counters.lease_lost += len(held) - len(kept)
            lane.ready.extend(kept)
            self._claims.ring(lane)

    # -- failing

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._tell_quiet()
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())

    def _fail(self, error: BaseException | None) -> None:
        """Something that must not end has ended: the worker says so and stops, instead of standing still."""
        if self.failure is None and error is not None and self._state != "gone":
            self.failure = error
            log.critical("the worker failed: %s: %s", type(error).__name__, error)
            if not self._ended.done():
                self._ended.set_result(None)

    def _from_thread(self, act: Callable[[Any], None], what: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(act, what)
