"""Brings outcomes to the transport, and frees their slots when it has confirmed them.  The only caller of `settle`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter

from .delivery import Ack, Bury, Delivery, Failure, Outcome, Release, Requeue
from .dispatch import ACK, RELEASE, Done
from .errors import LeaseLost, TransportBroken, TransportError
from .failure import one_line
from .lanes import Lane
from .observe import Counters, Finished, Lost, Observer, log
from .transport import Settle, Settled, Transport, Unknown

__all__ = ["Pair", "Settler"]

_BACKOFF = (0.05, 1.0)
# Of an error's text in the log: one line; the rest is in the journal and with the dead letter.
_SAID = 300

Pair = tuple[Delivery, Outcome]

_SETTLED = Settled()
_outcome = itemgetter(1)


class Settler:
    """Outcomes leave at once when no settle is under way, else with the next one: no timer.

    Args:
        freed: told which lanes have slots again, and how many in all.
        due: told that a delivery of this lane is due in so many seconds.
        settle_ordered: settles instead of the transport where these ordered lanes take part: their keys are free then,
            and the next of each need not wait for the answer and the doorbell.
    """

    def __init__(
        self,
        transport: Transport,
        counters: Counters,
        observers: Sequence[Observer],
        *,
        freed: Callable[[Sequence[Lane], int], None],
        due: Callable[[Lane, float], None],
        settle_ordered: Callable[[Sequence[Pair], Sequence[Lane]], Awaitable[Sequence[Settle]]],
    ) -> None:
        self._transport = transport
        self._counters = counters
        self._observers = observers
        self._freed = freed
        self._due = due
        self._settle_ordered = settle_ordered
        self._waiting: list[Lane] = []  # lanes with something in their outbox
        self._sent: list[tuple[Lane, list[Pair]]] = []  # under way
        self._bell: asyncio.Future[None] | None = None
        self._empty: list[asyncio.Future[None]] = []
        self._here = False  # a runner settles by itself
        self._began: dict[int, float] = {}  # when a delivery started, for observers

    def add(self, lane: Lane, delivery: Delivery, outcome: Outcome | Done, started: float) -> None:
        """Settle one delivery, whose slot stays taken until that is confirmed."""
        lane.finished += 1
        if isinstance(outcome, Done):
            self._done(lane, delivery, started)
            return
        if outcome is not RELEASE:
            lane.tally.ran(delivery, outcome, started)
        lane.unsettled += 1
        lane.outbox.append((delivery, outcome))
        if self._observers:
            self._began[id(delivery)] = started
        self.ring(lane)

    def ring(self, lane: Lane) -> None:
        """Something was put into the lane's outbox."""
        self._waiting.append(lane)
        self.wake()

    def put(self, lane: Lane) -> None:
        """As `ring`, by who is about to `settle_here`."""
        self._waiting.append(lane)

    def wake(self) -> None:
        """Let `run` see to what waits."""
        if self._bell is not None and not self._here:
            if not self._bell.done():  # cancelled, where the loop is torn down
                self._bell.set_result(None)
            self._bell = None

    async def settle_here(self, attend: Callable[[bool], None]) -> None:
        """Settle what waits, for a runner that would only wait for that: nobody need be woken for it.

        `attend` is told before and after slots are freed: meanwhile the runner itself sees to what may start in them.
        """
        if self._here or self._sent or not self._waiting:
            return
        self._load()
        self._here = True
        try:
            results = await self._settle(self._pairs())
            attend(True)  # noqa: FBT003 - it says whether
            self._confirm(results)
        except TransportBroken:
            raise
        except TransportError:
            self._counters.transport_errors += 1
        finally:
            self._here = False
            attend(False)  # noqa: FBT003 - it says whether
        if self.empty:
            self._tell_empty()
        else:  # it failed, must be tried again, or others came meanwhile: `run` sees to it
            self.wake()

    @property
    def empty(self) -> bool:
        """Whether every outcome is confirmed."""
        return not self._waiting and not self._sent

    def unsettled(self) -> list[Delivery]:
        """What has ended and is still leased; called from the lease thread too."""
        sent = [delivery for _, pairs in list(self._sent) for delivery, _ in list(pairs)]
        return sent + [delivery for lane in list(self._waiting) for delivery, _ in list(lane.outbox)]

    async def until_empty(self, until: float | None) -> None:
        """Wait until every outcome is confirmed, or until then."""
        while not self.empty:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            waiter = asyncio.get_running_loop().create_future()
            self._empty.append(waiter)
            await asyncio.wait([waiter], timeout=left)

    async def run(self) -> None:
        """Settle for ever."""
        pause = 0.0
        while True:
            if self._here or self.empty:
                await self._rest()
                continue
            if not self._sent:
                self._load()
            pairs = self._pairs()
            try:
                results = await self._settle(pairs)
            except TransportBroken:
                raise
            except TransportError as error:
                if not pause:
                    log.warning("cannot settle %d deliveries: %s; trying on", len(pairs), error)
                self._counters.transport_errors += 1
                self._counters.settle_retries += len(pairs)
                pause = min(max(2 * pause, _BACKOFF[0]), _BACKOFF[1])
                await asyncio.sleep(pause)
                continue
            pause = self._confirm(results)
            if pause:
                await asyncio.sleep(pause)

    async def _settle(self, pairs: Sequence[Pair]) -> Sequence[Settle]:
        ordered = [lane for lane, _ in self._sent if lane.ordered]
        return await (self._settle_ordered(pairs, ordered) if ordered else self._transport.settle(pairs))

    def _pairs(self) -> list[Pair]:
        return self._sent[0][1] if len(self._sent) == 1 else [pair for _, some in self._sent for pair in some]

    async def _rest(self) -> None:
        if self.empty:
            self._tell_empty()
        self._bell = asyncio.get_running_loop().create_future()
        await self._bell

    def _tell_empty(self) -> None:
        for waiter in self._empty:
            if not waiter.done():
                waiter.set_result(None)
        self._empty.clear()

    def _load(self) -> None:
        waiting, self._waiting = self._waiting, []
        for lane in waiting:
            if lane.outbox:
                self._sent.append((lane, lane.outbox))
                lane.outbox = []

    def _confirm(self, results: Sequence[Settle]) -> float:
        """Free the slots of what is settled; keep what must be tried again, and say how long to wait for that."""
        sent, self._sent = self._sent, []
        lanes: list[Lane] = []
        freed = place = 0
        for lane, pairs in sent:
            done = len(pairs)
            again = self._confirm_lane(lane, pairs, results[place : place + done] if len(sent) > 1 else results)
            place += done
            if again:
                self._sent.append((lane, again))
                done -= len(again)
            lane.unsettled -= done
            freed += done
            lanes.append(lane)
        self._freed(lanes, freed)
        return _BACKOFF[0] if self._sent else 0.0

    def _confirm_lane(self, lane: Lane, pairs: list[Pair], results: Sequence[Settle]) -> list[Pair]:
        if not self._observers and _all_done(pairs, results):
            self._counters.acked += len(pairs)
            lane.tally.acked(pairs)
            return []
        again: list[Pair] = []
        for (delivery, outcome), result in zip(pairs, results, strict=True):
            match result:
                case Settled():
                    self._count(lane, delivery, outcome)
                case LeaseLost():
                    self._lost(lane, delivery)
                case Unknown():
                    self._counters.settle_retries += 1
                    again.append((delivery, outcome))
        return again

    def _done(self, lane: Lane, delivery: Delivery, started: float) -> None:
        """It was settled in its own transaction."""
        self._counters.acked += 1
        lane.tally.ran(delivery, ACK, started)
        lane.tally.settled(delivery, ACK)
        for observe in self._observers:
            observe(Finished(delivery, ACK, time.monotonic() - started))
        self._freed((lane,), 1)

    def _lost(self, lane: Lane, delivery: Delivery) -> None:
        self._counters.lease_lost += 1
        log.warning("the lease of event %s for %r had ended: its settle was refused", delivery.envelope.id, lane.name)
        lane.tally.lost(delivery)
        self._began.pop(id(delivery), None)
        for observe in self._observers:
            observe(Lost(delivery))

    def _count(self, lane: Lane, delivery: Delivery, outcome: Outcome) -> None:
        counters = self._counters
        lane.tally.settled(delivery, outcome)
        match outcome:
            case Ack():
                counters.acked += 1
            case Requeue(after, None):
                counters.snoozed += 1
                self._due(lane, after)
            case Requeue(after, failure):
                counters.requeued += 1
                self._due(lane, after)
                _log_failure(logging.WARNING, delivery, failure, f"again in {after:.3g} s")
            case Bury(reason, failure):
                counters.buried += 1
                _log_failure(logging.ERROR, delivery, failure, f"buried: {reason}")
            case Release():
                counters.released += 1
        if self._observers:
            took = time.monotonic() - self._began.pop(id(delivery), time.monotonic())
            for observe in self._observers:
                observe(Finished(delivery, outcome, took))


def _all_done(pairs: Sequence[Pair], results: Sequence[Settle]) -> bool:
    """Whether every one was done and is settled, as nearly always; counted without a step of ours for each."""
    return results.count(_SETTLED) == len(pairs) == list(map(_outcome, pairs)).count(ACK)


def _log_failure(level: int, delivery: Delivery, failure: Failure | None, then: str) -> None:
    envelope = delivery.envelope
    what = one_line(f"{failure.error}: {failure.message}", _SAID) if failure is not None else "no error"
    log.log(
        level,
        "%s: attempt %d of %s %s failed (%s); %s",
        delivery.subscription, delivery.attempt, envelope.name, envelope.id, what, then,
        extra={
            "event_id": str(envelope.id), "event_name": envelope.name, "subscription": delivery.subscription,
            "attempt": delivery.attempt,
        },
    )  # fmt: skip
