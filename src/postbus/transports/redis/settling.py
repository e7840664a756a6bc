"""Settles: outcomes to scripts.  Acknowledging goes apart from moving: a full server lets a backlog drain so."""

from __future__ import annotations

import math
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
from .wire import pack, packed_failure

__all__ = ["SETTLED", "Delay", "Pair", "Receipt", "Settling", "Wish", "ms_after", "unsure", "words_to_bring"]


class Delay(NamedTuple):
    """A delayed event was read before it is due: it waits in the subscription's own store."""

    due_ms: int


Pair = tuple[Delivery, Outcome | Delay]

# What one script call moves, each at a cost of twenty commands: the server serves others too.
_MOVES = 100
SETTLED = Settled()
_DONE, _TRIMMED = b"1t"


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


class Wish(NamedTuple):
    """For whom and for how many seconds the next of each key is leased; what was, as the server said it."""

    owner: str
    lease: float
    given: list[tuple[str, str, list[Any]]]


class _Request(NamedTuple):
    """Places in the caller's list that one script call settles; with a group, all at once.

    `brought` says that somebody else removed the events, so that they are sent along.
    """

    script: Script
    topic: str
    subscription: str
    group: bytes
    brought: bool = False
    part: int = 0


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

    def request(self, delivery: Delivery, wish: Wish) -> tuple[list[Any], list[Any]]:
        """Keys and arguments of the acknowledging script for a delivery of the own store, which is spent by that."""
        receipt: Receipt = delivery.receipt
        receipt.spent = True
        self._done(receipt.topic)
        batch = _Request(ACK, receipt.topic, receipt.subscription, b"")
        return [self._keys.stream(receipt.topic)], _args(batch, ((delivery, Ack()),), wish)

    async def settle(self, settlements: Sequence[Pair], wish: Wish | None = None) -> list[Settle]:
        """One result for each, in order."""
        results: list[Settle | None] = [None] * len(settlements)
        rest = list(range(len(settlements)))
        while rest:  # a delivery that is settled twice in one batch takes a second round
            rest = await self._round(settlements, rest, results, wish)
        return [result for result in results if result is not None]

    async def _round(
        self,
        settlements: Sequence[Pair],
        places: Sequence[int],
        results: list[Settle | None],
        wish: Wish | None,
    ) -> list[int]:
        seen: set[int] = set()
        again: list[int] = []
        batches: dict[_Request, list[int]] = {}
        moves: dict[_Request, int] = {}
        for place in places:
            delivery, outcome = settlements[place]
            receipt: Receipt = delivery.receipt
            if id(receipt) in seen:
                again.append(place)
            elif receipt.owner != delivery.owner:
                results[place] = _lost(delivery)
            else:
                seen.add(id(receipt))
                batch = _batch(receipt, outcome)
                if batch.script is MOVE:
                    moves[batch] = moves.get(batch, -1) + 1
                    batch = batch._replace(part=moves[batch] // _MOVES)
                batches.setdefault(batch, []).append(place)
                receipt.spent = True
        if batches:
            await self._send(settlements, batches, results, wish)
        return again

    async def _send(
        self,
        settlements: Sequence[Pair],
        batches: dict[_Request, list[int]],
        results: list[Settle | None],
        wish: Wish | None,
    ) -> None:
        # Acknowledging first: the server may be full, and then it makes room.
        order = sorted(batches, key=lambda batch: batch.script is MOVE)
        closely: dict[_Request, list[int]] = {}
        for batch, reply in zip(order, await self._ask(settlements, order, batches, wish), strict=True):
            places = batches[batch]
            if wish is not None and isinstance(reply, list):
                wish.given.append((batch.topic, batch.subscription, reply))
                reply = reply[0]  # noqa: PLW2901 - what followed is put aside
            if reply == b"":
                closely[batch._replace(group=b"")] = places
                continue
            for number, place in enumerate(places):
                if isinstance(reply, TransportError | ResponseError):
                    results[place] = unsure(reply)
                elif reply[number] == _TRIMMED:
                    closely.setdefault(batch._replace(brought=True), []).append(place)
                else:
                    results[place] = SETTLED if reply[number] == _DONE else _lost(settlements[place][0])
        if closely:
            await self._send(settlements, closely, results, wish)

    async def _ask(
        self,
        settlements: Sequence[Pair],
        order: Sequence[_Request],
        batches: dict[_Request, list[int]],
        wish: Wish | None,
    ) -> Sequence[Any]:
        scripts = []
        for batch in order:
            self._done(batch.topic)
            if batch.script is MOVE:
                self.moved(int(batch.subscription))
            pairs = [settlements[place] for place in batches[batch]]
            scripts.append((batch.script, [self._keys.stream(batch.topic)], _args(batch, pairs, wish)))
        try:
            return await self._line.run_each(*scripts)
        except AnswerLost as error:
            return [error] * len(order)


def unsure(why: Exception) -> Unknown:
    """What is known of a settle whose answer says nothing, or never came."""
    return Unknown(TransportError(f"the outcome may not be stored: {why}"))


def _nothing(_: int) -> None:
    """Nobody is to be told yet."""


def _batch(receipt: Receipt, outcome: Outcome | Delay) -> _Request:
    if type(outcome) is not Ack:
        return _Request(MOVE, receipt.topic, receipt.subscription, b"")
    return _Request(ACK, receipt.topic, receipt.subscription, b"" if receipt.spent else receipt.group)


def _args(batch: _Request, pairs: Sequence[Pair], wish: Wish | None) -> list[Any]:
    """What the script is told."""
    args: list[Any] = [batch.subscription]
    if batch.script is ACK:
        args += ("", "") if wish is None else (wish.owner, max(1, round(wish.lease * 1000)))
    if batch.group:
        receipts: list[Receipt] = [delivery.receipt for delivery, _ in pairs]
        args += (batch.group, min(delivery.fence for delivery, _ in pairs), len(pairs))
        args += [receipt.id for receipt in receipts]
        args += [receipt.key for receipt in receipts]
        return args
    args.append("each" if batch.script is ACK else "brought" if batch.brought else "")
    for delivery, outcome in pairs:
        receipt = delivery.receipt
        args += (receipt.group, receipt.id, delivery.fence, receipt.owner)
        args += (receipt.key,) if batch.script is ACK else _words(outcome)
        if batch.brought:
            args += words_to_bring(delivery)
    return args


def words_to_bring(delivery: Delivery) -> tuple[Any, ...]:
    """Name, key and envelope of an event that is in the stream no more."""
    receipt: Receipt = delivery.receipt
    return delivery.envelope.name, receipt.key, pack(delivery.envelope)


def ms_after(seconds: float) -> int:
    """A wait in whole milliseconds that is never too short: the script's time is cut to one."""
    return 0 if seconds <= 0 else math.ceil(seconds * 1000) + 1


def _words(outcome: Outcome | Delay) -> tuple[Any, ...]:
    """What the moving script is told of an outcome."""
    match outcome:
        case Requeue(after, failure, suspect):
            return "requeue", ms_after(after), int(failure is not None), int(suspect)
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
