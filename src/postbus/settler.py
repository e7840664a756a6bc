"""Brings outcomes to the transport, and frees their slots when it has confirmed them.  The only caller of `settle`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from .delivery import Ack, Bury, Delivery, Failure, Outcome, Release, Requeue
from .dispatch import ACK, Done
from .errors import LeaseLost, TransportBroken, TransportError
from .lanes import Lane
from .observe import Counters, Finished, Lost, Observer, log
from .transport import Settle, Settled, Transport, Unknown

__all__ = ["Pair", "Settler"]

_BACKOFF = (0.05, 1.0)

Pair = tuple[Delivery, Outcome]


class Settler:
    """Outcomes leave at once when no settle is under way, else with the next one: no timer.

    Args:
        freed: told which lanes have slots again, and how many in all.
        due: told that a delivery of this lane is due in so many seconds.
    """

    def __init__(
        self,
        transport: Transport,
        counters: Counters,
        observers: Sequence[Observer],
        *,
        freed: Callable[[Sequence[Lane], int], None],
        due: Callable[[Lane, float], None],
    ) -> None:
        self._transport = transport
        self._counters = counters
        self._observers = observers
        self._freed = freed
        self._due = due
        self._waiting: list[Lane] = []  # lanes with something in their outbox
        self._sent: list[tuple[Lane, list[Pair]]] = []  # under way
        self._bell: asyncio.Future[None] | None = None
        self._empty: list[asyncio.Future[None]] = []
        self._began: dict[int, float] = {}  # when a delivery started, for observers

    def add(self, lane: Lane, delivery: Delivery, outcome: Outcome | Done, started: float) -> None:
        """Settle one delivery, whose slot stays taken until that is confirmed."""
        lane.finished += 1
        if isinstance(outcome, Done):
            self._done(lane, delivery, started)
            return
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
        if self._bell is not None:
            self._bell.set_result(None)
            self._bell = None

    async def settle_here(self) -> None:
        """Settle what waits, for a caller whose transport answers at once: nobody need be woken for it."""
        if self._sent or not self._waiting:
            return
        self._load()
        try:
            self._confirm(await self._transport.settle(self._pairs()))
        except TransportBroken:
            raise
        except TransportError:
            self._counters.transport_errors += 1
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
            if not self._sent:
                if not self._waiting:
                    await self._rest()
                self._load()
            pairs = self._pairs()
            try:
                results = await self._transport.settle(pairs)
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

    def _pairs(self) -> list[Pair]:
        return self._sent[0][1] if len(self._sent) == 1 else [pair for _, some in self._sent for pair in some]

    async def _rest(self) -> None:
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
        again: list[Pair] = []
        acked = 0
        plain = not self._observers
        for pair, result in zip(pairs, results, strict=True):
            if plain and pair[1] is ACK and type(result) is Settled:  # nearly always
                acked += 1
                continue
            delivery, outcome = pair
            match result:
                case Settled():
                    self._count(lane, delivery, outcome)
                case LeaseLost():
                    self._lost(lane, delivery)
                case Unknown():
                    self._counters.settle_retries += 1
                    again.append(pair)
        self._counters.acked += acked
        return again

    def _done(self, lane: Lane, delivery: Delivery, started: float) -> None:
        """It was settled in its own transaction."""
        self._counters.acked += 1
        for observe in self._observers:
            observe(Finished(delivery, Ack(), time.monotonic() - started))
        self._freed((lane,), 1)

    def _lost(self, lane: Lane, delivery: Delivery) -> None:
        self._counters.lease_lost += 1
        log.warning("the lease of event %s for %r had ended: its settle was refused", delivery.envelope.id, lane.name)
        self._began.pop(id(delivery), None)
        for observe in self._observers:
            observe(Lost(delivery))

    def _count(self, lane: Lane, delivery: Delivery, outcome: Outcome) -> None:
        counters = self._counters
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
