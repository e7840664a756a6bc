"""Outcomes come back: each batch is one call of `ack` or `settle`, which refuse what is no longer held."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from ...delivery import Ack, Bury, Delivery, Outcome, Release, Requeue
from ...errors import LeaseLost
from ...transport import Settle, Settled, Unknown
from .line import AnswerLost, Line, Refusal
from .routing import Registry
from .schema import Tables
from .wire import array, packed, storable

__all__ = ["Settling", "lost"]

_SETTLED = Settled()
_NEVER = 3e9


class Settling:
    """The statements of a settle."""

    def __init__(self, line: Line, tables: Tables, registry: Registry, ring: Callable[[Collection[int]], None]) -> None:
        self._line = line
        self._registry = registry
        self._ring = ring
        self._ack = tables("SELECT postbus.ack(%s, %s::text::bigint[], %s::text::integer[], %s::text::bigint[])")
        self._settle = tables(
            "SELECT postbus.settle(%s, %s::text::bigint[], %s::text::integer[], %s::text::bigint[], %s::integer[], "
            "%s::double precision[], %s::boolean[], %s::text[], %s::text[])"
        )

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Settle]:
        """Store outcomes; one result for each."""
        results: list[Settle | None] = [None] * len(settlements)
        groups: dict[str, dict[tuple[Any, int], int]] = {}
        for place, (delivery, _) in enumerate(settlements):
            groups.setdefault(delivery.owner, {}).setdefault((delivery.receipt, delivery.fence), place)
        for owner, places in groups.items():
            mine = list(places.values())
            try:
                held = await self._ask_twice(owner, [settlements[place] for place in mine])
            except AnswerLost as error:
                for place in mine:
                    results[place] = Unknown(error)
                continue
            for number in held:
                results[mine[number - 1]] = _SETTLED
            self._ring(self._freed([settlements[mine[number - 1]] for number in held]))
        return [
            lost(delivery) if result is None else result
            for result, (delivery, _) in zip(results, settlements, strict=True)
        ]

    async def release(self, owner: str, held: Sequence[tuple[Any, int]]) -> None:
        """Hand back what these receipts and fences stand for, of which no delivery was ever given."""
        values = [
            owner,
            array(receipt.seq for receipt, _ in held),
            array(receipt.subscription for receipt, _ in held),
            array(fence for _, fence in held),
            *map(list, zip(*([_columns(Release())] * len(held)), strict=True)),
        ]
        await self._line.ask(self._settle, values)
        self._ring({receipt.subscription for receipt, _ in held})

    async def _ask_twice(self, owner: str, mine: Sequence[tuple[Delivery, Outcome]]) -> list[int]:
        """A transaction that met another one is run again."""
        try:
            return await self._ask(owner, mine)
        except Refusal as error:
            if not error.again:
                raise
        return await self._ask(owner, mine)

    async def _ask(self, owner: str, mine: Sequence[tuple[Delivery, Outcome]]) -> list[int]:
        values: list[Any] = [
            owner,
            array([delivery.receipt.seq for delivery, _ in mine]),
            array([delivery.receipt.subscription for delivery, _ in mine]),
            array([delivery.fence for delivery, _ in mine]),
        ]
        if all(type(outcome) is Ack for _, outcome in mine):
            ((held,),) = await self._line.ask(self._ack, values)
        else:
            rows = [_columns(outcome) for _, outcome in mine]
            ((held,),) = await self._line.ask(self._settle, [*values, *map(list, zip(*rows, strict=True))])
        return list(held)

    def _freed(self, settled: Sequence[tuple[Delivery, Outcome]]) -> set[int]:
        """The subscriptions that may have got work by this: something came back, or a key is free."""
        return {
            delivery.receipt.subscription
            for delivery, outcome in settled
            if isinstance(outcome, Requeue | Release)
            or (delivery.envelope.key is not None and self._ordered(delivery.receipt.subscription))
        }

    def _ordered(self, subscription: int) -> bool:
        routing = self._registry.last
        place = None if routing is None else routing.by_id.get(subscription)
        return place is None or place.spec.ordered


def _columns(outcome: Outcome) -> tuple[int, float, bool, str | None, str | None]:
    match outcome:
        case Ack():
            return 0, 0.0, False, None, None
        case Requeue(after, failure, suspect):
            return 1, float(min(after, _NEVER)), suspect, packed(failure), None
        case Bury(reason, failure):
            return 2, 0.0, False, packed(failure), storable(reason)
        case Release():
            return 3, 0.0, False, None, None


def lost(delivery: Delivery) -> LeaseLost:
    """What a settle says of a delivery that is not this owner's any more."""
    return LeaseLost(
        f"event {delivery.envelope.id} is no longer leased for {delivery.subscription!r} to {delivery.owner!r}"
    )
