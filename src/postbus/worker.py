"""Runs the subscribers of a bus in this process: slots and lanes, suspects, shutdown.

    doorbell -> claims -> lane.ready -> a slot runs it -> settler -> the slot is free again

A slot is the right to run one delivery, held until its settle is confirmed.  Slots are counted, not tasks: a runner
task goes from delivery to delivery for as long as slots are free.
"""

from __future__ import annotations

import asyncio
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

from .claims import Claims
from .delivery import Delivery, Outcome, Requeue
from .dispatch import RELEASE, Dispatch, Done
from .lanes import Lane, Slot
from .leases import Leases
from .observe import Counters, Observer, Started, log
from .settler import Settler
from .transport import Transport, WorkerInfo
from .watch import Watch

__all__ = ["Isolate", "ProcessDied", "Worker", "WorkerSettings"]

# How long one runner may go on without letting the event loop turn.
_SLICE = 0.005


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
        observers: Sequence[Observer] = (),
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
        self._lanes = {
            d.subscriber.name: Lane(d, isolated=isolate is not None and d.subscriber.isolation == "process")
            for d in dispatches
        }
        self._line: deque[Lane] = deque()  # lanes that can start something, first come first served
        self._free = settings.concurrency
        self._slots: set[Slot] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._rousing = False
        self._holding = False  # a suspect runs, or is about to: nothing may start beside it
        self._tasks: set[asyncio.Task[Any]] = set()
        self._state: Literal["new", "running", "draining", "gone"] = "new"
        self._quiet: list[asyncio.Future[None]] = []  # who waits until nothing runs
        self._started_at = datetime.now(UTC)
        self._watch = Watch(self._slots, counters, settings.lease, self._give_up)
        self._claims = Claims(
            transport,
            self._lanes,
            counters,
            owner=self.owner,
            lease=settings.lease,
            poll=settings.poll,
            declare=declare,
            spawn=self._spawn,
            open=lambda: self._state == "running" and not self._holding,
            ready=self._ready,
            refuse=self._release,
            suspects=self._note_suspects,
        )
        self._settler = Settler(transport, counters, self._observers, freed=self._freed, due=self._claims.due_in)

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
        self._spawn(self._settler.run())
        self._claims.start()

    def halt(self) -> None:
        """Start nothing more, and hand back what has not started; what runs goes on.  `stop` ends it."""
        if self._state == "running":
            self._state = "draining"
            self._line.clear()
            for lane in self._lanes.values():
                lane.queued = False
                self._release(lane, lane.give_out())

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
        for slot in self._slots:
            self._watch.cancel(slot, "shutdown")
        await self._at_rest(time.monotonic() + 1.0)
        self._state = "gone"
        self._watch.close()
        self._claims.close()
        tasks = [*self._tasks, *(slot.task for slot in self._slots if slot.task is not None)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=0.5)
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
        return self._settler.empty and not any(lane.busy for lane in self._lanes.values())

    def healthy(self) -> bool:
        """Whether it does its work: nothing failed, and its loops and its lease thread run."""
        return self._state == "running" and self.failure is None and self._leases.alive

    # -- running

    def _ready(self, lane: Lane) -> None:
        """The lane has something to start."""
        if not lane.queued and lane.ready and lane.free > 0:
            lane.queued = True
            self._line.append(lane)
        self._rouse()

    def _freed(self, lanes: Sequence[Lane], slots: int) -> None:
        """Slots of these lanes are free again."""
        self._free += slots
        for lane in lanes:
            self._claims.feed(lane)
            self._ready(lane)
        if self._quiet:
            self._tell_quiet()

    def _rouse(self) -> None:
        """See to it that somebody looks at the line.  At most one wake is under way: who wakes rouses the next."""
        if self._rousing or not self._line or self._free <= 0 or self._holding:
            return
        if self._idle:
            self._rousing = True
            bell = self._idle.pop()
            if not bell.done():
                bell.set_result(None)
        elif len(self._slots) < self.settings.concurrency + self._counters.leaked_slots:
            self._rousing = True
            self._start_task(slot := Slot(), self._run_slot(slot))

    def _start_task(self, slot: Slot, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._slots.add(slot)
        slot.task = self._loop.create_task(work)
        slot.task.add_done_callback(lambda task: self._slot_ended(slot, task))
        return slot.task

    async def _run_slot(self, slot: Slot) -> None:
        while True:
            self._rousing = False
            slice_ends = time.monotonic() + _SLICE
            while self._line and self._free > 0 and not self._holding:
                lane = self._line.popleft()
                lane.queued = False
                if self._still_leased(lane) and await self._run_lane(slot, lane, slice_ends):
                    return
                if time.monotonic() > slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = time.monotonic() + _SLICE
            bell = self._loop.create_future()
            self._idle.append(bell)
            if self._quiet:
                self._tell_quiet()
            await bell

    async def _run_lane(self, slot: Slot, lane: Lane, slice_ends: float) -> bool:
        """Run deliveries of one lane for as long as they end at once; the first that waits is waited for.

        Returns whether the slot is lost: its run came back after it had been given up.
        """
        ready, outbox, clock, timeout = lane.ready, lane.outbox, time.monotonic, lane.timeout
        start = self._start if self._observers or lane.isolated else lane.dispatch.start
        free = min(lane.free, self._free)
        slot.lane, slot.isolated = lane, lane.isolated
        delivery: Delivery | None = None
        outcome: Outcome | Done | None = None
        ended = 0
        now = clock()
        while ready and ended < free and now < slice_ends:
            delivery = ready.popleft()
            slot.started, slot.deadline = now, now + timeout
            outcome = start(slot, delivery)
            if outcome is None:
                break
            slot.delivery = None
            if isinstance(outcome, Done):  # a transactional run is settled already
                self._free -= 1
                self._settler.add(lane, delivery, outcome, now)
            else:
                outbox.append((delivery, outcome))
                ended += 1
            now = clock()
        if ended:
            lane.unsettled += ended
            lane.finished += ended
            self._free -= ended
            self._settler.ring(lane)
        if delivery is None or outcome is not None:
            self._ready(lane)
            return False
        lane.running += 1
        self._free -= 1
        self._ready(lane)
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

    async def _run_isolated(self, slot: Slot, lane: Lane, delivery: Delivery) -> Outcome:
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
        return lane.dispatch.subscriber.retry.judge(error, attempt=delivery.attempt, luck=random.random())

    def _still_leased(self, lane: Lane) -> bool:
        """Whether what is ready may start.  Else this process stood still for longer than the lease, and what had not
        started is handed back, not run.
        """
        now = time.monotonic()
        if now < lane.sure_until:
            return True
        renewed = self._leases.renewed_at
        if renewed > lane.arrived and now < renewed + self.settings.lease:
            lane.sure_until = renewed + self.settings.lease
            return True
        self._release(lane, lane.give_out())
        return False

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
            return Requeue(max(outcome.after, self.settings.lease), outcome.failure)
        return outcome

    def _leaked(self, lane: Lane, delivery: Delivery) -> None:
        self._counters.leaked_slots += 1
        self._free -= 1  # beside the one that the settle gives back
        log.error(
            "subscriber %r does not end: its slot is lost until it does (event %s)", lane.name, delivery.envelope.id
        )
        if lane.running >= lane.limit and self._counters.leaked_slots >= lane.limit:
            self._fail(RuntimeError(f"every slot of subscriber {lane.name!r} is held by runs that do not end"))

    def _returned(self, lane: Lane) -> None:
        """A run that had leaked has ended after all."""
        self._counters.leaked_slots -= 1
        lane.running -= 1
        self._freed((lane,), 1)

    def _slot_ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        self._slots.discard(slot)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())
        self._tell_quiet()

    # -- suspects

    def _note_suspects(self, lane: Lane) -> None:
        if not lane.suspects:
            lane.suspects = True
            if sum(1 for other in self._lanes.values() if other.suspects) == 1:
                self._spawn(self._clear_suspects())

    async def _clear_suspects(self) -> None:
        """Run what vanished workers held, one at a time with nothing beside it: whoever kills its process is known."""
        while self._state == "running" and (lanes := [lane for lane in self._lanes.values() if lane.suspects]):
            for lane in lanes:
                if self._isolate is None:
                    self._holding = True
                    await self._at_rest(None)
                for delivery in await self._claims.alone(lane):
                    await self._run_alone(lane, delivery)
        self._holding = False
        for lane in self._lanes.values():
            self._claims.feed(lane)
            self._ready(lane)

    async def _run_alone(self, lane: Lane, delivery: Delivery) -> None:
        """Through an ordinary slot, so that leases, time limits and shutdown hold for it too."""
        if self._state != "running":
            self._release(lane, [delivery])
            return
        slot = Slot()
        await asyncio.wait([self._start_task(slot, self._run_beside_nothing(slot, lane, delivery))])
        await self._settler.until_empty(None)

    async def _run_beside_nothing(self, slot: Slot, lane: Lane, delivery: Delivery) -> None:
        lane.running += 1
        self._free -= 1
        slot.lane, slot.isolated = lane, self._isolate is not None
        slot.started = time.monotonic()
        slot.deadline = slot.started + lane.timeout
        outcome = self._start(slot, delivery) or await self._wait_for(slot, lane, delivery)
        slot.delivery = None
        if outcome is not None:
            lane.running -= 1
            self._settler.add(lane, delivery, outcome, slot.started)

    # -- letting go

    def _release(self, lane: Lane, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._free -= 1
            self._settler.add(lane, delivery, RELEASE, time.monotonic())

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
        return any(slot.runs for slot in self._slots)

    def _tell_quiet(self) -> None:
        waiting, self._quiet = self._quiet, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # -- leases

    def _held(self) -> list[Delivery]:
        """What is leased here and to be renewed; called from the lease thread."""
        held = [delivery for lane in self._lanes.values() for delivery in list(lane.ready)]
        held += [d for slot in tuple(self._slots) if slot.runs and (d := slot.delivery) is not None]
        return held + self._settler.unsettled()

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
