"""Claims: one script over the topics of a subscription, and deliveries out of its reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ...delivery import Bury, Delivery
from ...errors import UnknownSubscription
from ...transport import Claimed
from .line import Line, said
from .office import Office
from .registry import Record, Registry
from .scripts import CLAIM
from .settling import Receipt, Settling
from .wire import Malformed, envelope_of, salvaged

__all__ = ["Claiming"]

# Entries that one script call may look at: a server that serves others too must not be held for long.
_BUDGET = 1000
_ROUNDS = 1000


class _Part(NamedTuple):
    """What one call gave."""

    deliveries: list[Delivery]
    malformed: list[tuple[Delivery, Bury]]
    next_due: float | None
    suspects: bool
    more: bool


class Claiming:
    """Leases deliveries."""

    def __init__(self, line: Line, office: Office, settling: Settling) -> None:
        self._line = line
        self._office = office
        self._settling = settling
        self._turn = 0

    async def claim(self, name: str, owner: str, limit: int, lease: float, *, alone: bool) -> Claimed:
        """See `Transport.claim`."""
        registry = await self._office.registry()
        if name not in registry.by_name:
            registry = await self._office.refresh()
        record = registry.record(name)
        found: list[Delivery] = []
        part = _Part([], [], None, suspects=False, more=False)
        for _ in range(_ROUNDS):
            part, registry = await self._call(registry, record, owner, limit - len(found), lease, alone=alone)
            found += part.deliveries
            if part.malformed:
                await self._settling.settle(part.malformed)
            if not part.more and not part.malformed:
                break
            if alone or len(found) >= limit:
                break
        return Claimed(found, part.next_due, part.suspects)

    async def _call(
        self, registry: Registry, record: Record, owner: str, limit: int, lease: float, *, alone: bool
    ) -> tuple[_Part, Registry]:
        """One script call; a second one when the registry turns out to be another."""
        for _ in range(5):
            topics = registry.topics(record)
            if topics:
                self._turn += 1
                turn = self._turn % len(topics)
                topics = topics[turn:] + topics[:turn]
            scripts = []
            if topics:
                args = [record.number, owner, limit, max(1, round(lease * 1000)), "1" if alone else "0", _BUDGET]
                scripts = [(CLAIM, [self._office.keys.stream(topic) for topic in topics], args)]
            before = ("HGET", self._office.keys.registry[0], "revision")
            replies = await self._line.run_each(*scripts, before=[before])
            revision = said(replies[0], self._line.door) or b""
            refused = isinstance(replies[-1], ResponseError)
            if refused and not str(replies[-1]).startswith(("GONE", "NOGROUP")):
                said(replies[-1], self._line.door)
            part = _Part([], [], None, suspects=False, more=False)
            if scripts and not refused:
                part = _part(replies[-1], record, topics, owner, alone=alone)
            if revision == registry.revision and not refused:
                return part, registry
            if refused:
                record = await self._office.repair(record.name)
            registry = await self._office.refresh()
            if part.deliveries or part.malformed:
                return part, registry
            record = registry.record(record.name)
        raise UnknownSubscription(f"the topics of subscription {record.name!r} do not know it: declare it again")


def _part(reply: Sequence[Any], record: Record, topics: Sequence[str], owner: str, *, alone: bool) -> _Part:
    next_due, suspects, more = reply[:3]
    deliveries: list[Delivery] = []
    malformed: list[tuple[Delivery, Bury]] = []
    place = 3
    name, number = record.name, str(record.number)
    while place < len(reply):
        at, group, first, count = reply[place : place + 4]
        topic = topics[at - 1]
        place += 4
        width = 4 if group else 5
        for fence, start in enumerate(range(place, place + width * count, width), int(first)):
            entry, event_name, key, packed = reply[start : start + 4]
            receipt = Receipt(topic, number, group, entry, owner, key)
            attempt = 1 if group else reply[start + 4]
            try:
                envelope = envelope_of(topic, entry, event_name, key, packed)
            except Malformed as error:
                envelope = salvaged(topic, entry, event_name, key, packed)
                delivery = Delivery(envelope, name, attempt, fence, owner, receipt, alone)
                malformed.append((delivery, Bury(str(error)[:500])))
                continue
            deliveries.append(Delivery(envelope, name, attempt, fence, owner, receipt, alone))
        place += width * count
    return _Part(deliveries, malformed, next_due / 1000 if next_due >= 0 else None, bool(suspects), bool(more))
