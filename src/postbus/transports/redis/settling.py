"""Settles: outcomes to scripts.  Acknowledging goes apart from moving: a full server lets a backlog drain so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ...delivery import Ack, Bury, Delivery, Outcome, Release, Requeue
from ...errors import LeaseLost, TransportError
from ...transport import Settle, Settled, Unknown
from .line import AnswerLost, Line
from .registry import Keys
from .scripts import ACK, MOVE, Script
from .wire import packed_failure

__all__ = ["Receipt", "Settling"]

Pair = tuple[Delivery, Outcome]

_SETTLED = Settled()


class Receipt(NamedTuple):
    """Where a delivery is: `group` is empty when it is in the subscription's own store."""

    topic: str
    subscription: str
    group: bytes
    id: bytes
    owner: str
    key: bytes


class _Request(NamedTuple):
    script: Script
    stream: str
    subscription: str
    places: list[int]
    args: list[Any]


class Settling:
    """Stores outcomes.

    Args:
        done: told which topics have something to let go of.
    """

    def __init__(self, line: Line, keys: Keys, done: Callable[[str], None]) -> None:
        self._line = line
        self._keys = keys
        self._done = done

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
        seen: set[tuple[str, str, bytes, bytes]] = set()
        again: list[int] = []
        requests: dict[tuple[str, str, str], _Request] = {}
        for place in places:
            delivery, outcome = settlements[place]
            receipt: Receipt = delivery.receipt
            identity = receipt[:4]
            if identity in seen:
                again.append(place)
            elif receipt.owner != delivery.owner:
                results[place] = _lost(delivery)
            else:
                seen.add(identity)
                self._add(requests, place, delivery, outcome)
        await self._send(settlements, list(requests.values()), results)
        return again

    def _add(
        self, requests: dict[tuple[str, str, str], _Request], place: int, delivery: Delivery, outcome: Outcome
    ) -> None:
        receipt: Receipt = delivery.receipt
        script = ACK if type(outcome) is Ack else MOVE
        key = (script.name, receipt.topic, receipt.subscription)
        request = requests.get(key)
        if request is None:
            stream = self._keys.stream(receipt.topic)
            request = _Request(script, stream, receipt.subscription, [], [receipt.subscription])
            requests[key] = request
            self._done(receipt.topic)
        request.places.append(place)
        request.args.extend((receipt.group, receipt.id, delivery.fence, receipt.owner))
        if script is ACK:
            request.args.append(receipt.key)
        else:
            request.args.extend(_words(outcome))

    async def _send(self, settlements: Sequence[Pair], requests: list[_Request], results: list[Settle | None]) -> None:
        if not requests:
            return
        # Acknowledging first: the server may be full, and then it makes room.
        requests.sort(key=lambda request: request.script is MOVE)
        scripts = [(request.script, [request.stream], request.args) for request in requests]
        try:
            replies = await self._line.run_each(*scripts)
        except AnswerLost as error:
            replies = [error] * len(requests)
        for request, reply in zip(requests, replies, strict=True):
            for number, place in enumerate(request.places):
                if isinstance(reply, TransportError | ResponseError):
                    results[place] = Unknown(TransportError(f"the outcome may not be stored: {reply}"))
                else:
                    results[place] = _SETTLED if reply[number : number + 1] == b"1" else _lost(settlements[place][0])


def _words(outcome: Outcome) -> tuple[Any, ...]:
    """What the moving script is told of an outcome."""
    match outcome:
        case Requeue(after, failure, suspect):
            wait = 0 if after <= 0 else round(after * 1000 + 0.5)
            return "requeue", wait, int(failure is not None), int(suspect)
        case Bury(reason, failure):
            return "bury", int(failure is not None), reason, packed_failure(failure)
        case Release() | Ack():
            return "release", "", "", ""


def _lost(delivery: Delivery) -> LeaseLost:
    return LeaseLost(
        f"the lease of {delivery.envelope.name} {delivery.envelope.id} for {delivery.subscription!r} has ended "
        f"(owner {delivery.owner!r}, fence {delivery.fence})"
    )
