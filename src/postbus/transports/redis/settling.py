"""Settles: outcomes to scripts.  Acknowledging goes apart from moving: a full server lets a backlog drain so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from redis.exceptions import ResponseError

from ...delivery import Ack, Bury, Delivery, Outcome, Release, Requeue
from ...errors import LeaseLost, TransportError
from ...transport import Settle, Settled, Unknown
from .given import Batch
from .line import AnswerLost, Line
from .registry import Keys
from .scripts import ACK, MOVE, Script
from .wire import packed_failure

__all__ = ["Delay", "Pair", "Receipt", "Settling"]


class Delay(NamedTuple):
    """A delayed event was read before it is due: it waits in the subscription's own store."""

    due_ms: int


Pair = tuple[Delivery, Outcome | Delay]

_SETTLED = Settled()


class Receipt(msgspec.Struct, gc=False, eq=False):
    """Where a delivery is: `group` is empty when it is in the subscription's own store.

    `spent` says that a settle was sent once: the next one must look closely.
    """

    topic: str
    subscription: str
    group: bytes
    id: bytes
    owner: str
    key: bytes
    given: Batch
    spent: bool = False


class _Request(NamedTuple):
    """Places in the caller's list that one script call settles; with a group, all at once."""

    script: Script
    topic: str
    subscription: str
    group: bytes


class Settling:
    """Stores outcomes.

    Args:
        done: told which topics have something to let go of.

    Attributes:
        moved: told which subscriptions may have something due.
    """

    def __init__(self, line: Line, keys: Keys, done: Callable[[str], None]) -> None:
        self._line = line
        self._keys = keys
        self._done = done
        self.moved: Callable[[int], None] = _nothing

    async def settle(self, settlements: Sequence[Pair]) -> list[Settle]:
        """One result for each, in order."""
        results: list[Settle | None] = [None] * len(settlements)
        rest = list(range(len(settlements)))
        while rest:  # a delivery that is settled twice in one batch takes a second round
            rest = await self._round(settlements, rest, results)
        return [result for result in results if result is not None]

    async def _round(
        self, settlements: Sequence[Pair], places: Sequence[int], results: list[Settle | None]
    ) -> list[int]:
        seen: set[int] = set()
        again: list[int] = []
        batches: dict[_Request, list[int]] = {}
        for place in places:
            delivery, outcome = settlements[place]
            receipt: Receipt = delivery.receipt
            if id(receipt) in seen:
                again.append(place)
            elif receipt.owner != delivery.owner:
                results[place] = _lost(delivery)
            else:
                seen.add(id(receipt))
                batches.setdefault(_batch(receipt, outcome), []).append(place)
                receipt.spent = True
        if batches:
            await self._send(settlements, batches, results)
        return again

    async def _send(
        self, settlements: Sequence[Pair], batches: dict[_Request, list[int]], results: list[Settle | None]
    ) -> None:
        # Acknowledging first: the server may be full, and then it makes room.
        order = sorted(batches, key=lambda batch: batch.script is MOVE)
        closely: dict[_Request, list[int]] = {}
        for batch, reply in zip(order, await self._ask(settlements, order, batches), strict=True):
            places = batches[batch]
            if reply == b"":
                closely[batch._replace(group=b"")] = places
            for number, place in enumerate(places):
                if isinstance(reply, TransportError | ResponseError):
                    results[place] = Unknown(TransportError(f"the outcome may not be stored: {reply}"))
                elif reply:
                    done = reply[number : number + 1] == b"1"
                    results[place] = _SETTLED if done else _lost(settlements[place][0])
        if closely:
            await self._send(settlements, closely, results)

    async def _ask(
        self, settlements: Sequence[Pair], order: Sequence[_Request], batches: dict[_Request, list[int]]
    ) -> Sequence[Any]:
        scripts = []
        for batch in order:
            self._done(batch.topic)
            if batch.script is MOVE:
                self.moved(int(batch.subscription))
            pairs = [settlements[place] for place in batches[batch]]
            scripts.append((batch.script, [self._keys.stream(batch.topic)], _args(batch, pairs)))
        try:
            return await self._line.run_each(*scripts)
        except AnswerLost as error:
            return [error] * len(order)


def _nothing(_: int) -> None:
    """Nobody is to be told yet."""


def _batch(receipt: Receipt, outcome: Outcome | Delay) -> _Request:
    if type(outcome) is not Ack:
        return _Request(MOVE, receipt.topic, receipt.subscription, b"")
    return _Request(ACK, receipt.topic, receipt.subscription, b"" if receipt.spent else receipt.group)


def _args(batch: _Request, pairs: Sequence[Pair]) -> list[Any]:
    """What the script is told."""
    if batch.group:
        least = min(delivery.fence for delivery, _ in pairs)
        receipts: list[Receipt] = [delivery.receipt for delivery, _ in pairs]
        keys = (receipt.key for receipt in receipts)
        return [batch.subscription, batch.group, least, len(pairs), *(receipt.id for receipt in receipts), *keys]
    args: list[Any] = [batch.subscription, *(("each",) if batch.script is ACK else ())]
    for delivery, outcome in pairs:
        receipt = delivery.receipt
        args += (receipt.group, receipt.id, delivery.fence, receipt.owner)
        args += (receipt.key,) if batch.script is ACK else _words(outcome)
    return args


def _words(outcome: Outcome | Delay) -> tuple[Any, ...]:
    """What the moving script is told of an outcome."""
    match outcome:
        case Requeue(after, failure, suspect):
            wait = 0 if after <= 0 else round(after * 1000 + 0.5)
            return "requeue", wait, int(failure is not None), int(suspect)
        case Bury(reason, failure):
            return "bury", int(failure is not None), reason, packed_failure(failure)
        case Delay(due_ms):
            return "delay", due_ms, "", ""
        case Release() | Ack():
            return "release", "", "", ""


def _lost(delivery: Delivery) -> LeaseLost:
    return LeaseLost(
        f"the lease of {delivery.envelope.name} {delivery.envelope.id} for {delivery.subscription!r} has ended "
        f"(owner {delivery.owner!r}, fence {delivery.fence})"
    )
