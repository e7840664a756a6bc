"""Claims, runs and settles deliveries.  With `leases`, the only caller of claim, renew and settle.

    doorbell -> lane.rung -> claim -> lane.ready -> slot runs it -> outbox -> settle -> the slot is free again

A *lane* is one subscription here; a *slot* is the right to run one delivery, held until its settle is confirmed.
Slots are counted, not tasks: a runner task goes from delivery to delivery for as long as slots are free.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol
from uuid import uuid4

from .delivery import Ack, Bury, Delivery, Failure, Outcome, Release, Requeue
from .dispatch import RELEASE, Dispatch, Run
from .errors import LeaseLost, TransportBroken, TransportError, UnknownSubscription
from .leases import Leases
from .observe import Counters, Fact, Finished, Lost, Started, log
from .transport import Claimed, Settled, Transport, Unknown, WorkerInfo

__all__ = ["Isolate", "ProcessDied", "Worker", "WorkerSettings"]

# How long one runner may go on without letting the event loop turn.
_SLICE = 0.005
# A subscriber that swallows its cancellation gets this long, then its slot counts as leaked.
_SWALLOW = 5.0
# Without an explicit prefetch, a worker holds what it works off in this time: so that nothing waits here for long
# while another worker is free.
_AHEAD = 0.1
_BACKOFF = (0.05, 1.0)


class ProcessDied(Exception):
    """The child process that ran a delivery ended before it answered."""


class Isolate(Protocol):
    """Runs deliveries in child processes, each of which runs one at a time; see `isolate`."""

    async def run(self, delivery: Delivery, timeout: float) -> Outcome:
        """Return the outcome of running it there.  Cancelled, it ends the process before it returns.

        Raises:
            ProcessDied: when the process died under it.
        """
        ...


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


class _Batch:
    """What one claim gave: until when its leases are sure without a renewal."""

    __slots__ = ("arrived", "sure_until")

    def __init__(self, arrived: float, sure_until: float) -> None:
        self.arrived = arrived
        self.sure_until = sure_until


class _Lane:
    """One subscription in this worker."""

    __slots__ = (
        "backoff", "claimed_at", "claiming", "dispatch", "due_at", "finished", "isolated", "limit", "name", "prefetch", "queued",
        "ready", "rung", "running", "suspects", "timeout", "unsettled",
    )  # fmt: skip

    def __init__(self, dispatch: Dispatch) -> None:
        subscriber = dispatch.subscriber
        self.dispatch = dispatch
        self.name = subscriber.name
        self.limit = subscriber.concurrency
        self.prefetch = subscriber.prefetch
        self.timeout = subscriber.timeout
        self.ready: deque[tuple[Delivery, _Batch]] = deque()
        self.running = 0  # started and not ended, leaked ones included
        self.unsettled = 0  # ended, and their settle not confirmed
        self.rung = True  # there may be work at the transport
        self.claiming = False
        self.queued = False  # in the worker's line of lanes that can start something
        self.isolated = False  # runs in a child process
        self.suspects = False
        self.due_at: float | None = None
        self.finished = 0  # since the last claim
        self.claimed_at = 0.0
        self.backoff = 0.0

    @property
    def can_start(self) -> bool:
        return bool(self.ready) and self.running + self.unsettled < self.limit

    def room(self, now: float) -> int:
        """How many more may be claimed now.  0 while a larger claim soon is better than a small one at once."""
        ahead = self.prefetch
        if ahead is None:
            rate = self.finished / max(now - self.claimed_at, 0.001)
            ahead = min(self.limit, int(rate * _AHEAD))
        most = self.limit + ahead
        room = most - len(self.ready) - self.running - self.unsettled
        return room if not self.ready or room * 2 >= most else 0


class _Slot(Run):
    """A runner task's own record: what it runs now, if anything."""

    __slots__ = ("cancelled_at", "isolated", "lane", "leaked", "started", "task")

    def __init__(self) -> None:
        super().__init__()
        self.task: asyncio.Task[None] | None = None
        self.lane: _Lane | None = None
        self.started = 0.0
        self.cancelled_at: float | None = None
        self.isolated = False  # it runs in a child process
        self.leaked = False


class Worker:
    """Runs the subscribers of one bus in this process."""

    def __init__(
        self,
        transport: Transport,
        dispatches: Sequence[Dispatch],
        *,
        settings: WorkerSettings,
        counters: Counters,
        declare: Callable[[], Awaitable[None]],
        observers: Sequence[Callable[[Fact], None]] = (),
        isolate: Isolate | None = None,
    ) -> None:
        self.settings = settings
        self.owner = f"{settings.name or socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}"
        self.failure: BaseException | None = None
        self._transport = transport
        self._counters = counters
        self._declare = declare
        self._observers = tuple(observers)
        self._isolate = isolate
        self._lanes = {d.subscriber.name: _Lane(d) for d in dispatches}
        for lane in self._lanes.values():
            lane.isolated = isolate is not None and lane.dispatch.subscriber.isolation == "process"
        self._line: deque[_Lane] = deque()  # lanes that can start something, first come first served
        self._free = settings.concurrency
        self._slots: set[_Slot] = set()
        self._idle: list[tuple[_Slot, asyncio.Future[None]]] = []
        self._rousing = False
        self._outbox: list[tuple[_Lane, Delivery, Outcome, float]] = []
        self._unconfirmed: list[tuple[_Lane, Delivery, Outcome, float]] = []
        self._settle_bell: asyncio.Future[None] | None = None
        self._holding = False  # a suspect runs, or is about to: nothing may start beside it
        self._watch_at: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self._due_at: float | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._state: Literal["new", "running", "draining", "gone"] = "new"
        self._quiet: list[asyncio.Future[None]] = []  # who waits until nothing runs
        self._started_at = datetime.now(UTC)

    # -- life

    async def start(self) -> None:
        """Begin to claim and run."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._state = "running"
        await self._declare()
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
        self._spawn(self._listen())
        self._spawn(self._settle_all())
        self._spawn(self._poll())
        for lane in self._lanes.values():
            self._feed(lane)

    def halt(self) -> None:
        """Start nothing more, and hand back what has not started; what runs goes on.  `stop` ends it."""
        if self._state == "running":
            self._state = "draining"
            self._hand_back()

    async def stop(self, grace: float | None = None) -> None:
        """Stop claiming, hand back what has not started, let the running finish within `grace`, cancel the rest.

        Idempotent.  What is still running afterwards is not settled: its lease ends by itself.
        """
        if self._state in ("new", "gone"):
            self._state = "gone"
            return
        until = time.monotonic() + (self.settings.grace if grace is None else grace)
        self.halt()
        await self._quiesce(until)
        for slot in self._slots:
            self._cancel(slot, "shutdown")
        await self._quiesce(time.monotonic() + 1.0)
        await self._settled(time.monotonic() + 1.0)
        self._state = "gone"
        for task in (*self._tasks, *(s.task for s in self._slots if s.task is not None)):
            task.cancel()
        for timer in (self._watch, self._due):
            if timer is not None:
                timer.cancel()
        left = [t for t in (*self._tasks, *(s.task for s in self._slots if s.task)) if t is not asyncio.current_task()]
        if left:
            await asyncio.wait(left, timeout=0.5)
        await asyncio.to_thread(self._leases.stop)
        if not self._ended.done():
            self._ended.set_result(None)

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
            busy=self.settings.concurrency - self._free,
            state="running" if self._state == "new" else self._state,
        )

    @property
    def running(self) -> int:
        """How many deliveries run now."""
        return sum(1 for slot in self._slots if slot.delivery is not None)

    @property
    def idle(self) -> bool:
        """Whether it holds nothing, and knows of nothing to claim."""
        return not self._outbox and not self._unconfirmed and not any(
            lane.ready or lane.running or lane.unsettled or lane.claiming or lane.rung or lane.suspects
            for lane in self._lanes.values()
        )

    def healthy(self) -> bool:
        """Whether it does its work: nothing failed, and its loops and its lease thread run."""
        return self._state == "running" and self.failure is None and self._leases.alive

    # -- claiming

    async def _listen(self) -> None:
        """The doorbell: says which lanes may have work."""
        names = tuple(self._lanes)
        pause = 0.0
        while True:
            try:
                rung = await self._transport.wait(names, self.settings.poll)
                pause = 0.0
            except TransportBroken:
                raise
            except TransportError:
                self._counters.transport_errors += 1
                pause = min(max(2 * pause, _BACKOFF[0]), _BACKOFF[1])
                await asyncio.sleep(pause)
                continue
            for name in rung:
                lane = self._lanes[name]
                lane.rung = True
                self._feed(lane)

    async def _poll(self) -> None:
        """Polling is the truth: a bell that was not heard costs at most this long."""
        while True:
            await asyncio.sleep(self.settings.poll)
            for lane in self._lanes.values():
                lane.rung = True
                self._feed(lane)

    def _feed(self, lane: _Lane) -> None:
        if not lane.rung or lane.claiming or self._state != "running" or self._holding:
            return
        room = lane.room(time.monotonic())
        if room > 0:
            lane.claiming = True
            self._spawn(self._claim(lane, room))

    async def _claim(self, lane: _Lane, room: int) -> None:
        try:
            if lane.backoff:
                await asyncio.sleep(lane.backoff * random.uniform(0.8, 1.2))
            began = time.monotonic()
            lane.rung, lane.finished, lane.claimed_at = False, 0, began
            claimed = await self._try_claim(lane, room, alone=False)
        finally:
            lane.claiming = False
        if claimed is None:
            self._feed(lane)
            return
        if self._state != "running":
            self._release(lane, claimed.deliveries)
            return
        if claimed.deliveries:
            batch = _Batch(time.monotonic(), began + self.settings.lease)
            lane.ready.extend([(delivery, batch) for delivery in claimed.deliveries])
            lane.rung = lane.rung or len(claimed.deliveries) == room
            self._enqueue(lane)
            self._rouse()
        self._note_due(lane, claimed.next_due)
        if claimed.suspects:
            self._note_suspects(lane)
        self._feed(lane)

    async def _try_claim(self, lane: _Lane, limit: int, *, alone: bool) -> Claimed | None:
        """Claim, or return None after an error that trying again may mend."""
        try:
            claimed = await self._transport.claim(
                lane.name, owner=self.owner, limit=limit, lease=self.settings.lease, alone=alone
            )
        except UnknownSubscription:
            log.warning("subscription %r is gone from the transport: declaring it again", lane.name)
            await self._try_declare()
        except TransportBroken:
            raise
        except TransportError as error:
            if not lane.backoff:
                log.warning("cannot claim for %r: %s; trying on", lane.name, error)
        else:
            if lane.backoff:
                log.info("claiming for %r works again", lane.name)
            lane.backoff = 0.0
            return claimed
        self._counters.transport_errors += 1
        lane.rung = True
        lane.backoff = min(max(2 * lane.backoff, _BACKOFF[0]), _BACKOFF[1])
        return None

    async def _try_declare(self) -> None:
        try:
            await self._declare()
        except TransportBroken:
            raise
        except TransportError as error:
            log.warning("cannot declare subscriptions: %s; trying on", error)

    def _note_due(self, lane: _Lane, next_due: float | None) -> None:
        """Claim again when a delayed delivery is due: one timer for all lanes."""
        lane.due_at = None if next_due is None else time.monotonic() + next_due
        self._arm_due()

    def _arm_due(self) -> None:
        due = min((lane.due_at for lane in self._lanes.values() if lane.due_at is not None), default=None)
        if due == self._due_at and self._due is not None:
            return
        if self._due is not None:
            self._due.cancel()
        self._due_at = due
        self._due = None if due is None else self._loop.call_later(max(0.0, due - time.monotonic()), self._due_now)

    def _due_now(self) -> None:
        now = time.monotonic()
        self._due = self._due_at = None
        for lane in self._lanes.values():
            if lane.due_at is not None and lane.due_at <= now + 0.0005:
                lane.due_at = None
                lane.rung = True
                self._feed(lane)
        self._arm_due()

    # -- running

    def _enqueue(self, lane: _Lane) -> None:
        if not lane.queued and lane.can_start:
            lane.queued = True
            self._line.append(lane)

    def _rouse(self) -> None:
        """See to it that somebody looks at the line.  At most one wake is under way: who wakes rouses the next."""
        if self._rousing or not self._line or self._free <= 0 or self._holding:
            return
        if self._idle:
            self._rousing = True
            _, bell = self._idle.pop()
            if not bell.done():
                bell.set_result(None)
        elif len(self._slots) < self.settings.concurrency + self._counters.leaked_slots:
            self._rousing = True
            slot = _Slot()
            self._slots.add(slot)
            slot.task = self._loop.create_task(self._run_slot(slot))
            slot.task.add_done_callback(lambda task: self._slot_ended(slot, task))

    async def _run_slot(self, slot: _Slot) -> None:
        clock, line = time.monotonic, self._line
        while True:
            self._rousing = False
            now = clock()
            slice_ends = now + _SLICE
            while line and self._free > 0 and not self._holding:
                lane = line.popleft()
                lane.queued = False
                delivery, batch = lane.ready.popleft()
                if now >= batch.sure_until and not self._sure(batch, now):
                    self._stale(lane, delivery)
                    self._enqueue(lane)
                    continue
                lane.running += 1
                self._free -= 1
                if lane.ready and lane.running + lane.unsettled < lane.limit:
                    lane.queued = True
                    line.append(lane)
                outcome = self._start(slot, lane, delivery, now)
                if outcome is None:
                    if line:
                        self._rouse()
                    outcome = await self._wait_for(slot, lane, delivery)
                    if outcome is None:
                        if slot.leaked:  # it came back after all, and its delivery is settled long since
                            return
                        now = clock()
                        continue
                lane.running -= 1
                slot.delivery = None
                self._finish(lane, delivery, outcome, now)
                now = clock()
                if now > slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = now + _SLICE
            bell = self._loop.create_future()
            self._idle.append((slot, bell))
            if self._quiet:
                self._tell_quiet()
            await bell

    def _start(self, slot: _Slot, lane: _Lane, delivery: Delivery, now: float) -> Outcome | None:
        """Begin a run; most end before they wait for anything."""
        slot.lane, slot.started, slot.deadline = lane, now, now + lane.timeout
        for observe in self._observers:
            observe(Started(delivery))
        slot.isolated = lane.isolated or (delivery.suspect and self._isolate is not None)
        if slot.isolated:
            slot.delivery = delivery
            return None
        return lane.dispatch.start(slot, delivery)

    async def _wait_for(self, slot: _Slot, lane: _Lane, delivery: Delivery) -> Outcome | None:
        """See a run to its end.  None when its delivery was settled, or may not be settled, without it."""
        if self._watch_at is None or slot.deadline < self._watch_at:
            self._arm_watch(slot.deadline)
        if slot.isolated:
            outcome = await self._run_isolated(slot, lane, delivery)
        else:
            outcome = await lane.dispatch.finish(slot, delivery)
        thread, slot.thread, slot.delivery = slot.thread, None, None
        cause, slot.cause, slot.cancelled_at = slot.cause, None, None
        if slot.leaked:
            self._slots.discard(slot)
            self._returned(lane)
            return None
        if cause is not None and slot.task is not None:
            while slot.task.cancelling():
                slot.task.uncancel()
        if thread is None or thread.done():
            return outcome
        self._leaked(lane, delivery)
        thread.add_done_callback(lambda _: self._returned(lane))
        if cause != "shutdown":  # else it still runs, and only the end of its lease may hand it on
            self._finish(lane, delivery, self._not_before_lease(outcome), slot.started)
        return None

    async def _run_isolated(self, slot: _Slot, lane: _Lane, delivery: Delivery) -> Outcome:
        assert self._isolate is not None  # noqa: S101 - the caller asked
        try:
            return await self._isolate.run(delivery, lane.timeout)
        except ProcessDied as died:
            error: BaseException = died
        except asyncio.CancelledError:  # the child process was ended with it
            if slot.cause == "shutdown":
                return RELEASE
            if slot.cause != "timeout":
                raise
            error = TimeoutError(f"ran longer than its timeout of {lane.timeout:g} s")
        outcome = lane.dispatch.subscriber.retry.judge(error, attempt=delivery.attempt, luck=random.random())
        if isinstance(outcome, Requeue) and isinstance(error, ProcessDied) and not lane.isolated:
            return Requeue(outcome.after, outcome.failure, suspect=True)
        return outcome

    def _finish(self, lane: _Lane, delivery: Delivery, outcome: Outcome, started: float) -> None:
        """The delivery has ended; its slot stays taken until the settle is confirmed."""
        lane.unsettled += 1
        lane.finished += 1
        self._outbox.append((lane, delivery, outcome, started))
        if self._settle_bell is not None:
            self._settle_bell.set_result(None)
            self._settle_bell = None

    def _sure(self, batch: _Batch, now: float) -> bool:
        """Whether a renewal that began after the batch arrived keeps its leases alive."""
        renewed = self._leases.renewed_at
        return renewed > batch.arrived and now < renewed + self.settings.lease

    def _stale(self, lane: _Lane, delivery: Delivery) -> None:
        """This process stood still for longer than the lease: what had not started is handed back, not run."""
        lane.unsettled += 1
        self._free -= 1
        self._outbox.append((lane, delivery, RELEASE, time.monotonic()))
        if self._settle_bell is not None:
            self._settle_bell.set_result(None)
            self._settle_bell = None

    # -- time limits

    def _arm_watch(self, at: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch_at = at
        self._watch = self._loop.call_later(max(0.0, at - time.monotonic()), self._look)

    def _look(self) -> None:
        """One timer for all runs: cancel those whose time is up, give up those that did not heed it."""
        now = time.monotonic()
        self._watch = self._watch_at = None
        following: list[float] = []
        for slot in tuple(self._slots):
            if slot.delivery is None or slot.leaked:
                continue
            if slot.cancelled_at is not None:
                patience = slot.cancelled_at + min(_SWALLOW, self.settings.lease)
                if now >= patience:
                    self._give_up(slot)
                else:
                    following.append(patience)
            elif now >= slot.deadline:
                self._counters.timeouts += 1
                self._cancel(slot, "timeout")
                following.append(now + min(_SWALLOW, self.settings.lease))
            else:
                following.append(slot.deadline)
        if following:
            self._arm_watch(min(following))

    def _cancel(self, slot: _Slot, cause: Literal["timeout", "shutdown"]) -> None:
        if slot.delivery is not None and slot.task is not None and not slot.leaked:
            slot.cause = cause
            slot.cancelled_at = time.monotonic()
            slot.task.cancel()

    def _give_up(self, slot: _Slot) -> None:
        """The subscriber swallowed its cancellation.  Its slot is lost until it ends; the delivery is judged now."""
        delivery, lane = slot.delivery, slot.lane
        if delivery is None or lane is None:
            return
        slot.leaked = True
        self._leaked(lane, delivery)
        if slot.cause == "timeout":
            error = TimeoutError(f"ran longer than its timeout of {lane.timeout:g} s, and ignored its cancellation")
            outcome = lane.dispatch.subscriber.retry.judge(error, attempt=delivery.attempt, luck=random.random())
            self._finish(lane, delivery, self._not_before_lease(outcome), slot.started)

    def _not_before_lease(self, outcome: Outcome) -> Outcome:
        """The body still runs: nobody may start another before the lease it was given would have ended."""
        if isinstance(outcome, Requeue):
            return Requeue(max(outcome.after, self.settings.lease), outcome.failure)
        return outcome

    def _leaked(self, lane: _Lane, delivery: Delivery) -> None:
        self._counters.leaked_slots += 1
        self._free -= 1  # beside the one that the settle gives back
        log.error(
            "subscriber %r does not end: its slot is lost until it does (event %s)", lane.name, delivery.envelope.id
        )
        if lane.running >= lane.limit and self._counters.leaked_slots >= lane.limit:
            self._fail(RuntimeError(f"every slot of subscriber {lane.name!r} is held by runs that do not end"))

    def _returned(self, lane: _Lane) -> None:
        """A run that had leaked has ended after all."""
        self._counters.leaked_slots -= 1
        self._free += 1
        lane.running -= 1
        self._enqueue(lane)
        self._rouse()

    def _slot_ended(self, slot: _Slot, task: asyncio.Task[None]) -> None:
        self._slots.discard(slot)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())

    # -- settling

    async def _settle_all(self) -> None:
        """Outcomes leave at once when no settle is under way, else with the next one: no timer."""
        pause = 0.0
        while True:
            if not self._unconfirmed:
                if not self._outbox:
                    if self._quiet:
                        self._tell_quiet()
                    self._settle_bell = self._loop.create_future()
                    await self._settle_bell
                self._unconfirmed, self._outbox = self._outbox, []
            batch = self._unconfirmed
            try:
                results = await self._transport.settle([(delivery, outcome) for _, delivery, outcome, _ in batch])
            except TransportBroken:
                raise
            except TransportError as error:
                if not pause:
                    log.warning("cannot settle %d deliveries: %s; trying on", len(batch), error)
                self._counters.transport_errors += 1
                self._counters.settle_retries += len(batch)
                pause = min(max(2 * pause, _BACKOFF[0]), _BACKOFF[1])
                await asyncio.sleep(pause)
                continue
            pause = 0.0
            self._unconfirmed = self._confirm(batch, results)

    def _confirm(
        self, batch: list[tuple[_Lane, Delivery, Outcome, float]], results: Sequence[Settled | LeaseLost | Unknown]
    ) -> list[tuple[_Lane, Delivery, Outcome, float]]:
        """Free the slots of what is settled; return what must be tried again."""
        again: list[tuple[_Lane, Delivery, Outcome, float]] = []
        lanes: set[_Lane] = set()
        for item, result in zip(batch, results, strict=True):
            lane, delivery, outcome, started = item
            match result:
                case Settled():
                    if type(outcome) is Ack and not self._observers:  # nearly always
                        self._counters.acked += 1
                    else:
                        self._count(delivery, outcome, started)
                case LeaseLost():
                    self._counters.lease_lost += 1
                    log.warning("the lease of event %s for %r had ended", delivery.envelope.id, lane.name)
                    for observe in self._observers:
                        observe(Lost(delivery))
                case Unknown():
                    self._counters.settle_retries += 1
                    again.append(item)
                    continue
            lane.unsettled -= 1
            self._free += 1
            lanes.add(lane)
        for lane in lanes:
            self._enqueue(lane)
            self._feed(lane)
        self._rouse()
        return again

    def _count(self, delivery: Delivery, outcome: Outcome, started: float) -> None:
        counters = self._counters
        match outcome:
            case Ack():
                counters.acked += 1
            case Requeue(after, None):
                counters.snoozed += 1
                self._rearm(delivery, after)
            case Requeue(after, failure):
                counters.requeued += 1
                self._rearm(delivery, after)
                _log_failure(logging.WARNING, delivery, failure, f"again in {after:.3g} s")
            case Bury(reason, failure):
                counters.buried += 1
                _log_failure(logging.ERROR, delivery, failure, f"buried: {reason}")
            case Release():
                counters.released += 1
        for observe in self._observers:
            observe(Finished(delivery, outcome, time.monotonic() - started))

    def _rearm(self, delivery: Delivery, after: float) -> None:
        """We know when it is due without asking."""
        lane = self._lanes[delivery.subscription]
        due = time.monotonic() + after
        if lane.due_at is None or due < lane.due_at:
            lane.due_at = due
            self._arm_due()

    # -- suspects

    def _note_suspects(self, lane: _Lane) -> None:
        if lane.suspects:
            return
        lane.suspects = True
        if sum(1 for other in self._lanes.values() if other.suspects) == 1:
            self._spawn(self._clear_suspects())

    async def _clear_suspects(self) -> None:
        """Run what vanished workers held, one at a time with nothing beside it: whoever kills its process is known."""
        while lanes := [lane for lane in self._lanes.values() if lane.suspects]:
            for lane in lanes:
                await self._alone(lane)
        self._holding = False
        self._resume()

    async def _alone(self, lane: _Lane) -> None:
        if self._isolate is None:
            self._holding = True
            await self._quiesce(None)
        claimed = await self._try_claim(lane, 1, alone=True)
        if claimed is None:
            await asyncio.sleep(lane.backoff)
            return
        lane.suspects = claimed.suspects and bool(claimed.deliveries)
        self._note_due(lane, claimed.next_due)
        for delivery in claimed.deliveries:
            if self._state != "running":
                self._release(lane, claimed.deliveries)
                return
            await self._run_alone(lane, delivery)

    async def _run_alone(self, lane: _Lane, delivery: Delivery) -> None:
        """Through an ordinary slot, so that leases, time limits and shutdown hold for it too."""
        slot = _Slot()
        self._slots.add(slot)
        slot.task = self._loop.create_task(self._run_beside_nothing(slot, lane, delivery))
        slot.task.add_done_callback(lambda task: self._slot_ended(slot, task))
        await asyncio.wait([slot.task])
        await self._settled(None)

    async def _run_beside_nothing(self, slot: _Slot, lane: _Lane, delivery: Delivery) -> None:
        now = time.monotonic()
        lane.running += 1
        self._free -= 1
        outcome = self._start(slot, lane, delivery, now) or await self._wait_for(slot, lane, delivery)
        slot.delivery = None
        if outcome is not None:
            lane.running -= 1
            self._finish(lane, delivery, outcome, now)

    def _resume(self) -> None:
        for lane in self._lanes.values():
            self._enqueue(lane)
            self._feed(lane)
        self._rouse()

    # -- letting go

    def _hand_back(self) -> None:
        """Release what has not started."""
        self._line.clear()
        for lane in self._lanes.values():
            lane.queued = False
            waiting = [delivery for delivery, _ in lane.ready]
            lane.ready.clear()
            self._release(lane, waiting)

    def _release(self, lane: _Lane, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._free -= 1
            self._finish(lane, delivery, RELEASE, time.monotonic())

    async def _quiesce(self, until: float | None) -> None:
        """Wait until nothing runs and everything is settled, or until then."""
        while not self._at_rest():
            waiter = self._loop.create_future()
            self._quiet.append(waiter)
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            await asyncio.wait([waiter], timeout=left)

    async def _settled(self, until: float | None) -> None:
        while self._outbox or self._unconfirmed:
            waiter = self._loop.create_future()
            self._quiet.append(waiter)
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            await asyncio.wait([waiter], timeout=left)

    def _at_rest(self) -> bool:
        claiming = any(lane.claiming for lane in self._lanes.values())
        return not (self._outbox or self._unconfirmed or claiming) and not any(
            slot.delivery is not None and not slot.leaked for slot in self._slots
        )

    def _tell_quiet(self) -> None:
        waiting, self._quiet = self._quiet, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # -- leases

    def _held(self) -> list[Delivery]:
        """What is leased here and to be renewed; called from the lease thread.  A run whose time is up is not."""
        held = [delivery for lane in self._lanes.values() for delivery, _ in list(lane.ready)]
        held += [d for slot in tuple(self._slots) if (d := slot.delivery) is not None and not slot.leaked]
        held += [delivery for _, delivery, _, _ in (*self._outbox, *self._unconfirmed)]
        return held

    def _note_lost(self, lost: Collection[Delivery]) -> None:
        """Drop what is no longer ours and has not started; what runs is fenced off at its settle."""
        gone = {id(delivery) for delivery in lost}
        for lane in self._lanes.values():
            kept = [item for item in lane.ready if id(item[0]) not in gone]
            self._counters.lease_lost += len(lane.ready) - len(kept)
            lane.ready = deque(kept)
            lane.rung = True
            self._feed(lane)

    # -- failing

    def _spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._quiet:
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


def _log_failure(level: int, delivery: Delivery, failure: Failure | None, then: str) -> None:
    envelope = delivery.envelope
    what = f"{failure.error}: {failure.message}" if failure is not None else "no error"
    log.log(
        level,
        "%s: attempt %d of %s %s failed (%s); %s",
        delivery.subscription, delivery.attempt, envelope.name, envelope.id, what, then,
        extra={
            "event_id": str(envelope.id), "event_name": envelope.name, "subscription": delivery.subscription,
            "attempt": delivery.attempt,
        },
    )  # fmt: skip
