"""Claims: one script over the topics of a subscription, and for a moment after it a plain read, which costs half."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ...delivery import Ack, Bury, Delivery, Outcome, Release
from ...errors import TransportError, UnknownSubscription
from ...transport import Claimed
from .given import Batch, Given
from .line import Line, said
from .office import Office
from .registry import Record, Registry
from .scripts import CLAIM
from .settling import Delay, Receipt, Settling
from .wire import Malformed, envelope_of, salvaged, words_of

__all__ = ["Claiming"]

# Entries that one script call may look at: a server that serves others too must not be held for long.
_BUDGET = 1000
_ROUNDS = 1000
# Seconds for which new entries are read without the script: what is due meanwhile is that much late at most.
_DIRECT = 0.02


class _Part(NamedTuple):
    """What one call gave."""

    deliveries: list[Delivery]
    malformed: list[tuple[Delivery, Bury]]
    next_due: float | None = None
    suspects: bool = False
    more: bool = False


class _Ask(NamedTuple):
    """What is asked for."""

    record: Record
    owner: str
    limit: int
    lease: float
    alone: bool


class _Direct(NamedTuple):
    """Until when, on the monotonic clock, new entries may be read without the script, and from where."""

    until: float
    revision: bytes
    topic: str
    group: bytes
    wanted: dict[bytes, bool]
    due: float | None

    @property
    def next_due(self) -> float | None:
        """Seconds until something else is due."""
        return None if self.due is None else max(0.0, self.due - time.monotonic())


class Claiming:
    """Leases deliveries."""

    def __init__(self, line: Line, office: Office, settling: Settling) -> None:
        self._line = line
        self._office = office
        self._settling = settling
        self._turn = 0
        self._direct: dict[int, _Direct] = {}
        self._given = Given(line, office.keys)

    async def claim(self, name: str, owner: str, limit: int, lease: float, *, alone: bool) -> Claimed:
        """See `Transport.claim`."""
        registry = await self._office.registry()
        if name not in registry.by_name:
            registry = await self._office.refresh()
        record = registry.record(name)
        ask = _Ask(record, owner, limit, lease, alone)
        await self._given.recall(owner, record.number, registry.topics(record))
        answered = self._given.begin(record.number)
        try:
            return await self._claim(registry, ask)
        except TransportError:
            self._given.lost(owner, record.number)
            raise
        finally:
            answered()

    async def _claim(self, registry: Registry, ask: _Ask) -> Claimed:
        record, limit, alone = ask.record, ask.limit, ask.alone
        found: list[Delivery] = []
        if not alone and limit > 0:
            direct = self._direct.get(record.number)
            found = [] if direct is None else await self._read(ask, direct)
            if direct is not None and len(found) == limit:
                return Claimed(found, direct.next_due)
        part = _Part([], [])
        for _ in range(_ROUNDS):
            part, registry = await self._call(registry, ask._replace(limit=limit - len(found)))
            found += part.deliveries
            if part.malformed:
                await self._settling.settle(part.malformed)
            if alone or len(found) >= limit or not (part.more or part.malformed):
                break
        return Claimed(found, part.next_due, part.suspects)

    def look_closely(self, number: int) -> None:
        """Something of this subscription was moved: it may be due."""
        self._direct.pop(number, None)

    # -- without the script

    async def _read(self, ask: _Ask, direct: _Direct) -> list[Delivery]:
        """New entries, while the last script call is so young that nothing else can be due; else nothing."""
        registry = self._office.last
        if registry is None or time.monotonic() >= direct.until or registry.revision != direct.revision:
            self.look_closely(ask.record.number)
            return []
        stream = self._office.keys.stream(direct.topic)
        consumer = f"{ask.owner}|{max(1, round(ask.lease * 1000))}"
        revision, now, reply = await self._line.ask(
            ("HGET", self._office.keys.registry[0], "revision"),
            ("TIME",),
            ("XREADGROUP", "GROUP", direct.group, consumer, "COUNT", ask.limit, "STREAMS", stream, ">"),
        )
        if not reply or isinstance(reply, ResponseError) or isinstance(now, ResponseError):
            return []
        entries = reply[0][1]
        found, moved = self._sort_out(ask, direct, entries, int(now[0]) * 1_000_000 + int(now[1]) + 1)
        changed = revision != registry.revision
        if changed:
            moved += [(delivery, Release()) for delivery in found]
        if moved:
            self.look_closely(ask.record.number)
            await self._settling.settle(moved)
        return [] if changed else found

    def _sort_out(
        self, ask: _Ask, direct: _Direct, entries: Sequence[Any], fence: int
    ) -> tuple[list[Delivery], list[tuple[Delivery, Outcome | Delay]]]:
        """Deliveries, and what becomes of the entries that are none: unwanted, delayed or malformed."""
        found: list[Delivery] = []
        moved: list[tuple[Delivery, Outcome | Delay]] = []
        number, name = str(ask.record.number), ask.record.name
        topic, group, owner = direct.topic, direct.group, ask.owner
        batch = self._given.batch(owner, ask.record.number)
        for n, (entry, fields) in enumerate(entries, fence):
            event_name, key, packed = words_of(topic, fields)
            receipt = Receipt(topic, number, group, entry, owner, key, batch)
            batch.ids.append((topic, entry))
            try:
                envelope = envelope_of(topic, entry, event_name, key, packed)
            except Malformed as error:
                envelope = salvaged(topic, entry, event_name, key, packed)
                moved.append((Delivery(envelope, name, 1, n, owner, receipt), Bury(str(error)[:500])))
                continue
            delivery = Delivery(envelope, name, 1, n, owner, receipt)
            wanted = direct.wanted.get(event_name)
            if wanted is None:
                wanted = direct.wanted[event_name] = ask.record.spec.takes(envelope.name, topic)
            if not wanted:
                moved.append((delivery, Ack()))
            elif len(fields) == 8:
                moved.append((delivery, Delay(int(fields[7]))))
            else:
                found.append(delivery)
        return found, moved

    # -- by the script

    async def _call(self, registry: Registry, ask: _Ask) -> tuple[_Part, Registry]:
        """One script call; a second one when the registry turns out to be another."""
        record = ask.record
        for _ in range(5):
            topics = self._turned(registry.topics(record))
            scripts = [(CLAIM, [self._office.keys.stream(topic) for topic in topics], _args(ask))] if topics else []
            before = ("HGET", self._office.keys.registry[0], "revision")
            replies = await self._line.run_each(*scripts, before=[before])
            revision = said(replies[0], self._line.door) or b""
            refused = isinstance(replies[-1], ResponseError)
            if refused and not str(replies[-1]).startswith(("GONE", "NOGROUP")):
                said(replies[-1], self._line.door)
            part = _Part([], [])
            if scripts and not refused:
                part = _part(replies[-1], ask, topics, self._given.batch(ask.owner, record.number))
                self._note_direct(record.number, revision, topics[0], replies[-1])
            if revision == registry.revision and not refused:
                return part, registry
            if refused:
                record = await self._office.repair(record.name)
            registry = await self._office.refresh()
            if part.deliveries or part.malformed:
                return part, registry
            record = registry.record(record.name)
        raise UnknownSubscription(f"the topics of subscription {record.name!r} do not know it: declare it again")

    def _turned(self, topics: Sequence[str]) -> Sequence[str]:
        """Another topic first at each call, so that a busy one leaves room for the others."""
        if len(topics) < 2:
            return topics
        self._turn += 1
        turn = self._turn % len(topics)
        return (*topics[turn:], *topics[:turn])

    def _note_direct(self, number: int, revision: bytes, topic: str, reply: Sequence[Any]) -> None:
        next_due, suspects, more, group = reply[:4]
        if not group or suspects or more:
            self._direct.pop(number, None)
            return
        known = self._direct.get(number)
        wanted = known.wanted if known is not None and known.revision == revision else {}
        now = time.monotonic()
        due = None if next_due < 0 else now + next_due / 1000
        until = now + _DIRECT if due is None else min(now + _DIRECT, due)
        self._direct[number] = _Direct(until, revision, topic, group, wanted, due)


def _args(ask: _Ask) -> list[Any]:
    lease = max(1, round(ask.lease * 1000))
    return [ask.record.number, ask.owner, ask.limit, lease, "1" if ask.alone else "0", _BUDGET]


def _part(reply: Sequence[Any], ask: _Ask, topics: Sequence[str], batch: Batch) -> _Part:
    next_due, suspects, more = reply[:3]
    deliveries: list[Delivery] = []
    malformed: list[tuple[Delivery, Bury]] = []
    place = 4
    name, number, owner, alone = ask.record.name, str(ask.record.number), ask.owner, ask.alone
    while place < len(reply):
        at, group, first, count = reply[place : place + 4]
        topic = topics[at - 1]
        place += 4
        width = 4 if group else 5
        for fence, start in enumerate(range(place, place + width * count, width), int(first)):
            entry, event_name, key, packed = reply[start : start + 4]
            receipt = Receipt(topic, number, group, entry, owner, key, batch)
            batch.ids.append((topic, entry))
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
