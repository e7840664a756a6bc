"""Runs what the lanes hold: slots, runner tasks, child processes, runs that do not end.  Never claims or settles.

A slot is the right to run one delivery, held until its settle is confirmed.  Slots are counted, not tasks: a runner
task goes from delivery to delivery for as long as slots are free.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from .delivery import Delivery, Outcome, Requeue
from .dice import dice
from .dispatch import ACK, RELEASE, Done
from .lanes import Lane, Slot
from .observe import Counters, Observer, Started, log
from .settler import Settler
from .watch import Watch

__all__ = ["Isolate", "ProcessDied", "Slots"]

# How long one runner may go on without letting the event loop turn.
_SLICE = 0.005


class ProcessDied(Exception):
    """The child process that ran a delivery ended before it answered."""

    __module__ = "postbus"  # dead letters name the error, and in which room it lives is nobody's business


class Isolate(Protocol):
    """Runs deliveries in child processes, each of which runs one at a time; see `isolate`."""

    async def run(self, delivery: Delivery, timeout: float) -> Outcome | Done:
        """Return the outcome of running it there.  Cancelled, it ends the process before it returns.

        Raises:
            ProcessDied: when the process died under it.
        """
        ...


class Slots:
    """The slots of one worker.

    Args:
        limit: how many there are.
        lease: seconds; nobody may start a delivery again before the lease of one that does not end would have ended.
        still_leased: whether what a lane holds may start.
        feed: told that a lane may have room.
        feed_here: the same for a transport that answers at once, which is then settled and claimed from by the runner
            itself, without a turn of the event loop; else None.
        failed: told what no run may raise.
        rested: told that something has ended.

    Attributes:
        free: slots that nothing holds.
        holding: a suspect runs, or is about to: nothing may start beside it.
    """

    def __init__(
        self,
        limit: int,
        lease: float,
        *,
        settler: Settler,
        counters: Counters,
        observers: Sequence[Observer],
        isolate: Isolate | None,
        still_leased: Callable[[Lane], bool],
        feed: Callable[[Lane], None],
        feed_here: Callable[[Lane], Awaitable[None]] | None,
        failed: Callable[[BaseException | None], None],
        rested: Callable[[], None],
    ) -> None:
        self.free = limit
        self.holding = False
        self._limit = limit
        self._lease = lease
        self._settler = settler
        self._counters = counters
        self._observers = observers
        self._isolate = isolate
        self._still_leased = still_leased
        self._feed = feed
        self._feed_here = feed_here
        self._going_round = False  # a runner settles and claims by itself
        self._fed_later: list[Lane] = []
        self._failed = failed
        self._rested = rested
        self._line: deque[Lane] = deque()  # lanes that can start something, first come first served
        self._slots: set[Slot] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._rousing = False
        self._watch = Watch(self._slots, counters, lease, self._give_up)

    # -- asked by the worker

    @property
    def running(self) -> int:
        """How many deliveries run now."""
        return sum(1 for slot in self._slots if slot.delivery is not None)

    @property
    def busy(self) -> bool:
        """Whether something runs whose delivery is not settled."""
        return any(slot.runs for slot in self._slots)

    @property
    def isolates(self) -> bool:
        """Whether suspects run in a child process, with everything else beside it."""
        return self._isolate is not None

    def held(self) -> list[Delivery]:
        """What runs and is still leased; called from the lease thread too."""
        return [d for slot in tuple(self._slots) if slot.runs and (d := slot.delivery) is not None]

    def release(self, lane: Lane, deliveries: Sequence[Delivery]) -> None:
        """Hand back what has not started."""
        for delivery in deliveries:
            self.free -= 1
            self._settler.add(lane, delivery, RELEASE, time.monotonic())

    def halt(self) -> None:
        """Start nothing more."""
        self._line.clear()

    def cancel(self) -> None:
        """Cancel what runs: the worker shuts down."""
        for slot in self._slots:
            self._watch.cancel(slot, "shutdown")

    def close(self) -> list[asyncio.Task[None]]:
        """Cancel the runner tasks; return them."""
        self._watch.close()
        tasks = [slot.task for slot in self._slots if slot.task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    async def run_alone(self, lane: Lane, delivery: Delivery) -> None:
        """Run one suspect to its end: through a slot, so that leases, time limits and shutdown hold for it too."""
        slot = Slot()
        await asyncio.wait([self._start_task(slot, self._run_beside_nothing(slot, lane, delivery))])
        await self._settler.until_empty(None)

    # -- running

    def ready(self, lane: Lane) -> None:
        """The lane has something to start."""
        if not lane.queued and lane.ready and lane.free > 0:
            lane.queued = True
            self._line.append(lane)
        self._rouse()

    def freed(self, lanes: Sequence[Lane], slots: int) -> None:
        """Slots of these lanes are free again."""
        self.free += slots
        if self._going_round:
            self._fed_later.extend(lanes)
            return
        for lane in lanes:
            self._feed(lane)
            self.ready(lane)
        self._rested()

    def _rouse(self) -> None:
        """See to it that somebody looks at the line.  At most one wake is under way: who wakes rouses the next."""
        if self._rousing or not self._line or self.free <= 0 or self.holding:
            return
        if self._idle:
            self._rousing = True
            bell = self._idle.pop()
            if not bell.done():
                bell.set_result(None)
        elif len(self._slots) < self._limit + self._counters.leaked_slots:
            self._rousing = True
            self._start_task(slot := Slot(), self._run_slot(slot))

    def _settles(self, lane: Lane) -> bool:
        """Whether a runner settles by itself what it ran of this lane: its next one waits for nothing else."""
        return self._feed_here is not None or lane.ordered

    def _attend(self, here: bool) -> None:  # noqa: FBT001 - it says whether
        """A runner looks at the line by itself, from now on or no more."""
        self._rousing = here or self._going_round

    def _start_task(self, slot: Slot, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._slots.add(slot)
        slot.task = asyncio.get_running_loop().create_task(work)
        slot.task.add_done_callback(lambda task: self._slot_ended(slot, task))
        return slot.task

    async def _run_slot(self, slot: Slot) -> None:
        while True:
            self._rousing = False
            slice_ends = time.monotonic() + _SLICE
            while self._line and self.free > 0 and not self.holding:
                lane = self._line.popleft()
                lane.queued = False
                if self._still_leased(lane) and await self._run_lane(slot, lane, slice_ends):
                    return
                if self._feed_here is not None:
                    await self._go_round(lane, self._feed_here)
                elif lane.ordered:
                    await self._settler.settle_here(self._attend)
                if time.monotonic() > slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = time.monotonic() + _SLICE
            bell = asyncio.get_running_loop().create_future()
            self._idle.append(bell)
            self._rested()
            await bell

    async def _go_round(self, lane: Lane, feed_here: Callable[[Lane], Awaitable[None]]) -> None:
        """Settle what has ended and claim more, here and now; no other runner is needed for it."""
        if self._going_round or lane.backoff:
            self._settler.wake()
            self._feed(lane)
            return
        self._going_round = self._rousing = True
        try:
            await self._settler.settle_here(self._attend)
            await feed_here(lane)
        finally:
            self._going_round = self._rousing = False
            others, self._fed_later = self._fed_later, []
        for other in others:
            if other is not lane:
                self._feed(other)
                self.ready(other)
        self.ready(lane)
        self._rested()

    async def _run_lane(self, slot: Slot, lane: Lane, slice_ends: float) -> bool:
        """Run deliveries of one lane for as long as they end at once; the first that waits is waited for.

        Returns whether the slot is lost: its run came back after it had been given up.
        """
        ready, outbox, clock, timeout = lane.ready, lane.outbox, time.monotonic, lane.timeout
        start = self._start if self._observers or lane.isolated else lane.dispatch.start
        free = min(lane.free, self.free)
        slot.lane, slot.isolated = lane, lane.isolated
        delivery: Delivery | None = None
        outcome: Outcome | Done | None = None
        ended, smooth = 0, True
        began = now = clock()
        while ready and ended < free and now < slice_ends:
            delivery = ready.popleft()
            slot.deadline = now + timeout
            outcome = start(slot, delivery)
            if outcome is ACK:
                outbox.append((delivery, ACK))
                ended += 1
            elif outcome is None:
                break
            elif isinstance(outcome, Done):  # a transactional run is settled already
                self.free -= 1
                self._settler.add(lane, delivery, outcome, now)
            else:
                smooth = False
                outbox.append((delivery, outcome))
                ended += 1
            now = clock()
        slot.started = now
        if outcome is not None:
            slot.delivery = None
        if ended:
            lane.tally.ran_at_once(outbox, ended, now - began, smooth=smooth)
            lane.unsettled += ended
            lane.finished += ended
            self.free -= ended
            (self._settler.put if outcome is not None and self._settles(lane) else self._settler.ring)(lane)
        if delivery is None or outcome is not None:
            self.ready(lane)
            return False
        lane.running += 1
        self.free -= 1
        self.ready(lane)
        outcome = await self._wait_for(slot, lane, delivery)
        if outcome is not None:
            lane.running -= 1
            self._settler.add(lane, delivery, outcome, slot.started)
        return slot.leaked

    def _start(self, slot: Slot, delivery: Delivery) -> Outcome | Done | None:
        """Begin a run that is observed or isolated.  None when it must be waited for."""
        assert slot.lane is not None  # noqa: S101 - set by whoever runs the lane
        for observe in self._observers:
            observe(Started(delivery))
        if slot.isolated:
            slot.delivery = delivery
            return None
        return slot.lane.dispatch.start(slot, delivery)

    async def _wait_for(self, slot: Slot, lane: Lane, delivery: Delivery) -> Outcome | Done | None:
        """See a run to its end.  None when its delivery was settled, or may not be settled, without it."""
        self._watch.expect(slot.deadline)
        outcome: Outcome | Done
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
            self._settler.add(lane, delivery, self._not_before_lease(outcome), slot.started)
        return None

    async def _run_isolated(self, slot: Slot, lane: Lane, delivery: Delivery) -> Outcome | Done:
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
        outcome = self._judged(lane, delivery, error)
        if isinstance(outcome, Requeue) and isinstance(error, ProcessDied) and not lane.isolated:
            return Requeue(outcome.after, outcome.failure, suspect=True)
        return outcome

    def _judged(self, lane: Lane, delivery: Delivery, error: BaseException) -> Outcome:
        return lane.dispatch.subscriber.retry.judge(error, attempt=delivery.attempt, luck=dice.random())

    # -- runs that do not end

    def _give_up(self, slot: Slot) -> None:
        """The subscriber swallowed its cancellation.  Its slot is lost until it ends; the delivery is judged now."""
        delivery, lane = slot.delivery, slot.lane
        if delivery is None or lane is None:
            return
        slot.leaked = True
        self._leaked(lane, delivery)
        if slot.cause == "timeout":
            error = TimeoutError(f"ran longer than its timeout of {lane.timeout:g} s, and ignored its cancellation")
            outcome = self._not_before_lease(self._judged(lane, delivery, error))
            self._settler.add(lane, delivery, outcome, slot.started)

    def _not_before_lease(self, outcome: Outcome | Done) -> Outcome | Done:
        """The body still runs: nobody may start another before the lease it was given would have ended."""
        if isinstance(outcome, Requeue):
            return Requeue(max(outcome.after, self._lease), outcome.failure)
        return outcome

    def _leaked(self, lane: Lane, delivery: Delivery) -> None:
        self._counters.leaked_slots += 1
        self.free -= 1  # beside the one that the settle gives back
        log.error(
            "subscriber %r does not end: its slot is lost until it does (event %s)", lane.name, delivery.envelope.id
        )
        if lane.running >= lane.limit and self._counters.leaked_slots >= lane.limit:
            self._failed(RuntimeError(f"every slot of subscriber {lane.name!r} is held by runs that do not end"))

    def _returned(self, lane: Lane) -> None:
        """A run that had leaked has ended after all."""
        self._counters.leaked_slots -= 1
        lane.running -= 1
        self.freed((lane,), 1)

    def _slot_ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        self._slots.discard(slot)
        if not task.cancelled() and task.exception() is not None:
            self._failed(task.exception())
        self._rested()

    async def _run_beside_nothing(self, slot: Slot, lane: Lane, delivery: Delivery) -> None:
        lane.running += 1
        self.free -= 1
        slot.lane, slot.isolated = lane, self._isolate is not None
        slot.started = time.monotonic()
        slot.deadline = slot.started + lane.timeout
        outcome = self._start(slot, delivery) or await self._wait_for(slot, lane, delivery)
        slot.delivery = None
        if outcome is not None:
            lane.running -= 1
            self._settler.add(lane, delivery, outcome, slot.started)
