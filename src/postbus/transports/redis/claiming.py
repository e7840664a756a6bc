"""Claims: one script over the topics of a subscription, and what becomes of what a plain read gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ...delivery import Delivery, Outcome, Release
from ...errors import TransportError, UnknownSubscription
from ...transport import Claimed
from .given import Batch, Given
from .line import Line, said
from .office import Office
from .reading import Ask, Read, Reading, verdict
from .registry import Registry
from .scripts import CLAIM, MEND
from .settling import Receipt, Settling
from .wire import Malformed, envelope_of, salvaged

__all__ = ["Claiming"]

# Entries that one script call may look at: a server that serves others too must not be held for long.
_BUDGET = 1000
# Of several servers so many deliveries at least are asked for in a call, where there is plenty: a call costs as much.
_WORTH = 32
_ROUNDS = 1000
# In the script's reply: the topic with keys to look through, and where the deliveries begin.
_STRAY, _RUNS = 4, 5


class _Part(NamedTuple):
    """What one call gave."""

    deliveries: list[Delivery]
    malformed: list[tuple[Delivery, Outcome]]
    next_due: float | None = None
    suspects: bool = False
    more: bool = False


class Claiming:
    """Leases deliveries."""

    def __init__(self, line: Line, office: Office, settling: Settling, given: Given) -> None:
        self._line = line
        self._office = office
        self._settling = settling
        self._turn = 0
        self._plenty: set[int] = set()  # subscriptions of which the last claim got all that it asked for
        self._given = given
        self.reading = Reading(line, office, self._given)

    async def claim(
        self, name: str, owner: str, limit: int, lease: float, *, alone: bool, read: Read | None = None
    ) -> Claimed:
        """See `Transport.claim`; `read` is what `read_now` gave."""
        registry = await self._office.registry()
        if name not in registry.by_name:
            registry = await self._office.refresh()
        record = registry.record(name)
        ask = Ask(record, owner, limit, lease, alone)
        if read is None:
            await self._given.recall(owner, record.number, registry.topics(record))
        answered = self._given.begin(record.number)
        try:
            return await self._claim(registry, ask, read)
        except TransportError:
            self._given.lost(owner, record.number)
            raise
        finally:
            answered()

    async def _claim(self, registry: Registry, ask: Ask, read: Read | None) -> Claimed:
        limit, alone = ask.limit, ask.alone
        if read is None and not alone and limit > 0 and self._line.spread:
            read = await self.reading.read(ask)
            claimed = read.all_there_is(limit)
            if claimed is not None:
                return claimed
        found = [] if read is None else await self._taken(ask, read)
        part = _Part([], [])
        for _ in range(_ROUNDS):
            part, registry = await self._call(registry, ask._replace(limit=limit - len(found)))
            found += part.deliveries
            if part.malformed:
                await self._settling.settle(part.malformed)
            if alone or len(found) >= limit or not (part.more or part.malformed):
                break
        return Claimed(found, part.next_due, part.suspects)

    async def _taken(self, ask: Ask, read: Read) -> list[Delivery]:
        """What may be given out of it, when the rest is settled."""
        moved = list(read.moved)
        if read.changed:
            moved += [(delivery, Release()) for delivery in read.found]
        if moved:
            self.reading.look_closely(ask.record.number)
            await self._settling.settle(moved)
        return [] if read.changed else list(read.found)

    # -- by the script

    async def _call(self, registry: Registry, ask: Ask) -> tuple[_Part, Registry]:
        """What the subscription's topics give; asked once more when the registry turns out to be another."""
        record = ask.record
        for _ in range(5):
            topics = self._turned(registry.topics(record))
            revision, part, gone = await self._ask_topics(ask, topics)
            if revision == registry.revision and not gone:
                return part, registry
            if gone:
                self._given.lost(ask.owner, record.number)  # what the topics before that one gave
                record = await self._office.repair(record.name)
            registry = await self._office.refresh()
            if part.deliveries or part.malformed:
                return part, registry
            record = registry.record(record.name)
        raise UnknownSubscription(f"the topics of subscription {record.name!r} do not know it: declare it again")

    async def _ask_topics(self, ask: Ask, topics: Sequence[str]) -> tuple[bytes, _Part, bool]:
        """The registry's revision, what these topics give, and whether one of them does not know the subscription.

        One server gives it in one call.  Of many, each topic is asked for its share; a few at a time while there is
        plenty.  Then those that gave all of it are asked for what is missing.
        """
        if not self._line.spread:
            revision, part, gone, _ = await self._ask_some(ask, [topics] if topics else [], [ask.limit])
            return revision, part, gone
        whole, rest, revision = _Part([], []), list(topics), b""
        while True:
            left = ask.limit - len(whole.deliveries) - len(whole.malformed)
            at_once = max(1, left // _WORTH) if ask.record.number in self._plenty else left or len(rest)
            some, rest = rest[:at_once], rest[at_once:]
            shares = [left // len(some) + (n < left % len(some)) for n in range(len(some))]
            try:
                revision, part, gone, rich = await self._ask_some(ask, [(topic,) for topic in some], shares)
            except TransportError:
                self._plenty.discard(ask.record.number)  # the next claim asks all, and gets what the others have
                if whole.deliveries:
                    return revision, whole._replace(next_due=None), False
                raise
            whole = _both(whole, part)
            enough = len(whole.deliveries) + len(whole.malformed) >= ask.limit
            rest += rich
            if gone or enough or not rest:
                plenty = enough and ask.limit > 0 and not ask.alone
                (self._plenty.add if plenty else self._plenty.discard)(ask.record.number)
                if len(topics) > 1:  # what one of them lets us read is not all
                    self.reading.look_closely(ask.record.number)
                return revision, whole._replace(next_due=None) if rest else whole, gone

    async def _ask_some(
        self, ask: Ask, calls: Sequence[Sequence[str]], limits: Sequence[int]
    ) -> tuple[bytes, _Part, bool, list[str]]:
        """The same of some topics, in so many script calls; and those that gave as much as they were asked for."""
        streams = [[self._office.keys.stream(topic) for topic in topics] for topics in calls]
        before = ("HGET", self._office.keys.registry[0], "revision")
        asks = [ask._replace(limit=limit) for limit in limits]
        scripts = ((CLAIM, keys, _args(each)) for keys, each in zip(streams, asks, strict=False))
        first, *replies = await self._line.run_each(*scripts, before=[before])
        revision = said(first, self._line.door) or b""
        whole, gone, lost, rich = _Part([], []), False, None, []
        for topics, each, reply in zip(calls, asks, replies, strict=False):
            if isinstance(reply, TransportError):  # one server of several: the others' deliveries are leased
                self._given.lost(ask.owner, ask.record.number)
                lost = reply
            elif isinstance(reply, ResponseError) and str(reply).startswith(("GONE", "NOGROUP")):
                gone = True
            else:
                said(reply, self._line.door)
                part = _part(reply, ask, topics, self._given.batch(ask.owner, ask.record.number))
                if self._line.spread and each.limit and len(part.deliveries) + len(part.malformed) >= each.limit:
                    rich.append(topics[0])
                whole = _both(whole, part)
                self.reading.note(ask, revision, topics[0], reply)
                if reply[_STRAY]:
                    await self._mend(ask.record.number, topics[reply[_STRAY] - 1])
        if lost is not None and not whole.deliveries:
            raise lost
        return revision, whole, gone, rich

    def _turned(self, topics: Sequence[str]) -> Sequence[str]:
        """Another topic first at each call, so that a busy one leaves room for the others."""
        if len(topics) < 2:
            return topics
        self._turn += 1
        turn = self._turn % len(topics)
        return (*topics[turn:], *topics[:turn])

    async def _mend(self, number: int, topic: str) -> None:
        """Somebody else removed what may hold a key: free such keys, or their later events wait for ever."""
        cursor: bytes = b""
        while cursor != b"0":
            reply = await self._line.run(MEND, [self._office.keys.stream(topic)], [number, cursor])
            cursor = said(reply, self._line.door)


def _args(ask: Ask) -> list[Any]:
    lease = max(1, round(ask.lease * 1000))
    return [ask.record.number, ask.owner, ask.limit, lease, "1" if ask.alone else "0", _BUDGET]


def _both(one: _Part, two: _Part) -> _Part:
    """What two calls gave."""
    due = [part.next_due for part in (one, two) if part.next_due is not None]
    return _Part(
        one.deliveries + two.deliveries,
        one.malformed + two.malformed,
        min(due, default=None),
        one.suspects or two.suspects,
        one.more or two.more,
    )


def _part(reply: Sequence[Any], ask: Ask, topics: Sequence[str], batch: Batch) -> _Part:
    next_due, suspects, more = reply[:3]
    deliveries: list[Delivery] = []
    malformed: list[tuple[Delivery, Outcome]] = []
    place = _RUNS
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
                malformed.append((delivery, verdict(error, entry)))
                continue
            deliveries.append(Delivery(envelope, name, attempt, fence, owner, receipt, alone))
        place += width * count
    return _Part(deliveries, malformed, next_due / 1000 if next_due >= 0 else None, bool(suspects), bool(more))
