"""Settles that bring the next of each key with their answer: no claim behind them, and no bell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from redis.exceptions import ResponseError

from ...delivery import Ack, Delivery, Outcome
from ...transport import Settle, Unknown
from .given import Given
from .line import AnswerLost, Line
from .reading import verdict
from .scripts import ACK
from .settling import SETTLED, Pair, Receipt, Settling, Wish, unsure
from .wire import Malformed, envelope_of, salvaged, split

__all__ = ["Following"]

_WIDTH = 3


class Following:
    """See `transport.Following`."""

    def __init__(self, line: Line, settling: Settling, given: Given) -> None:
        self._line = line
        self._settling = settling
        self._given = given

    async def settle(
        self, pairs: Sequence[Pair], owner: str, lease: float
    ) -> tuple[Sequence[Settle], Sequence[Delivery]]:
        """Settle; and return what follows.

        Where an answer was lost that may have given something, nothing is wished for until that is found out.
        """
        names = {delivery.receipt.subscription: delivery.subscription for delivery, _ in pairs}
        numbers = [int(number) for number in names]
        if any(self._given.missing(owner, number) for number in numbers):
            return await self._settling.settle(pairs), ()
        wish = Wish(owner, lease, [])
        answered = [self._given.begin(number) for number in numbers]
        whole = False
        try:
            alone = len(pairs) == 1 and type(pairs[0][1]) is Ack
            result = await self._settle_alone(pairs[0][0], wish) if alone else None
            results = await self._settling.settle(pairs, wish) if result is None else [result]
            whole = not any(isinstance(each, Unknown) for each in results)
        finally:
            for end in answered:
                end()
            if not whole:
                for number in numbers:
                    self._given.lost(owner, number)
        return results, await self._followers(wish, names) if wish.given else ()

    async def _settle_alone(self, delivery: Delivery, wish: Wish) -> Settle | None:
        """The straight way of one that waited behind its key, as each of a busy key does; None where it is another."""
        receipt: Receipt = delivery.receipt
        if receipt.group or receipt.spent or receipt.owner != delivery.owner:
            return None
        keys, args = self._settling.request(delivery, wish)
        try:
            reply = await self._line.run(ACK, keys, args)
        except AnswerLost as error:
            return unsure(error)
        if isinstance(reply, ResponseError):
            return unsure(reply)
        if isinstance(reply, list):
            wish.given.append((receipt.topic, receipt.subscription, reply))
            return SETTLED
        return SETTLED if reply == b"1" else None

    async def _followers(self, wish: Wish, names: Mapping[str, str]) -> list[Delivery]:
        found: list[Delivery] = []
        malformed: list[tuple[Delivery, Outcome]] = []
        for topic, number, (_, first, *flat) in wish.given:
            batch = self._given.batch(wish.owner, int(number))
            for fence, start in enumerate(range(0, len(flat), _WIDTH), int(first)):
                entry, body, attempt = flat[start : start + _WIDTH]
                event_name, key, packed = split(body)
                receipt = Receipt(topic, number, b"", entry, wish.owner, key, batch)
                batch.ids.append((topic, entry))
                try:
                    envelope = envelope_of(topic, entry, event_name, key, packed)
                    found.append(Delivery(envelope, names[number], attempt, fence, wish.owner, receipt))
                except Malformed as error:
                    envelope = salvaged(topic, entry, event_name, key, packed)
                    delivery = Delivery(envelope, names[number], attempt, fence, wish.owner, receipt)
                    malformed.append((delivery, verdict(error, entry)))
        if malformed:
            await self._settling.settle(malformed)
        return found
