"""What can be seen and mended: figures, pages, dead letters, and subscriptions by name.  See `Inspectable`."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from uuid import UUID

from ...delivery import DeadLetter
from ...errors import Closed
from ...transport import DeadQuery, EventQuery, StoredEvent, SubscriptionInfo, SubscriptionStats, WorkerInfo
from .bell import Bell
from .letters import fits, letters_behind, place_of
from .line import Line, said
from .office import Office
from .registry import Keys, Record, Registry
from .renewing import Beat, beat_of
from .scripts import LETTERS, STATS
from .shelf import refill, stored_events
from .trimming import Trimming

__all__ = ["Desk"]


class Desk:
    """The part of the transport that people use."""

    _keys: Keys
    _office: Office
    _trimming: Trimming
    _bell: Bell

    def __init__(self) -> None:
        self._line: Line | None = None

    def _check(self) -> None:
        raise NotImplementedError

    def _open_line(self) -> Line:
        self._check()
        line = self._line
        if line is None:
            raise Closed("the transport is not open")
        return line

    async def ping(self) -> float:
        """See `Inspectable.ping`."""
        line = self._open_line()
        began = time.perf_counter()
        await line.one("PING")
        return time.perf_counter() - began

    async def subscriptions(self) -> Sequence[SubscriptionInfo]:
        """See `Inspectable.subscriptions`."""
        self._check()
        registry = await self._office.refresh()
        return [
            SubscriptionInfo(
                id=record.id,
                spec=record.spec,
                paused=record.paused,
                declared_at=datetime.fromtimestamp(record.declared_at, UTC),
            )
            for _, record in sorted(registry.by_name.items())
        ]

    async def stats(self, subscriptions: Collection[str] | None = None) -> Sequence[SubscriptionStats]:
        """See `Inspectable.stats`."""
        self._check()
        registry = await self._office.refresh()
        workers = [worker for beat in await self._beats() for worker in beat.info.subscriptions]
        names = sorted(name for name in registry.by_name if subscriptions is None or name in subscriptions)
        return [await self._stats(registry, registry.by_name[name], workers.count(name)) for name in names]

    async def _stats(self, registry: Registry, record: Record, workers: int) -> SubscriptionStats:
        line = self._open_line()
        scripts = [(STATS, [self._keys.stream(topic)], [record.number]) for topic in registry.topics(record)]
        rows = [said(reply, line.door) for reply in await line.run_each(*scripts)] if scripts else []
        sums = [sum(row[n] for row in rows) for n in range(9)]
        oldest = max((row[5] for row in rows if row[5] >= 0), default=None)
        next_due = min((row[6] for row in rows if row[6] >= 0), default=None)
        return SubscriptionStats(
            name=record.name,
            backlog=sums[0],
            in_flight=sums[1],
            scheduled=sums[2],
            retrying=sums[3],
            dead=sums[4],
            oldest_age=None if oldest is None else max(0.0, oldest / 1000),
            next_due=None if next_due is None else next_due / 1000,
            parked=sums[7],
            parked_events=sums[8],
            workers=workers,
            paused=record.paused,
        )

    async def workers(self) -> Sequence[WorkerInfo]:
        """See `Inspectable.workers`."""
        self._check()
        return sorted((beat.info for beat in await self._beats()), key=lambda worker: worker.owner)

    async def _beats(self) -> list[Beat]:
        line = self._open_line()
        replies = [said(reply, line.door) for reply in await line.ask(("TIME",), ("HGETALL", self._keys.workers))]
        now = int(replies[0][0]) + int(replies[0][1]) / 1e6
        beats = [(owner, beat_of(raw)) for owner, raw in zip(replies[1][::2], replies[1][1::2], strict=True)]
        gone = [owner for owner, beat in beats if beat is None or beat.until < now - 3600]
        if gone:
            await line.one("HDEL", self._keys.workers, *gone)
        return [beat for _, beat in beats if beat is not None and beat.until > now]

    async def events(self, query: EventQuery, *, limit: int = 100, after: str | None = None) -> Sequence[StoredEvent]:
        """See `Inspectable.events`."""
        line = self._open_line()
        registry = await self._office.refresh()
        await self._trimming.trim(registry.names, least=0, exact=True)
        return await stored_events(line, self._keys, registry, query, limit=limit, after=after)

    # -- dead letters

    async def dead(
        self, subscription: str | None, query: DeadQuery, *, limit: int = 100, after: UUID | None = None
    ) -> Sequence[DeadLetter]:
        """See `Inspectable.dead`."""
        line = self._open_line()
        registry = await self._office.refresh()
        records = registry.records.values() if subscription is None else [registry.record(subscription)]
        found: list[DeadLetter] = []
        for record in records:
            for topic in registry.topics(record):
                count = 0
                async for letter in letters_behind(line, self._keys, record, topic, after):
                    if count >= limit:
                        break
                    if fits(letter, query):
                        found.append(letter)
                        count += 1
        found.sort(key=lambda letter: letter.id)
        return found[:limit]

    async def replay(self, subscription: str, ids: Sequence[UUID]) -> int:
        """See `Inspectable.replay`."""
        return await self._letters("replay", subscription, ids)

    async def discard(self, subscription: str, ids: Sequence[UUID]) -> int:
        """See `Inspectable.discard`."""
        return await self._letters("discard", subscription, ids)

    async def _letters(self, what: str, subscription: str, ids: Sequence[UUID]) -> int:
        line = self._open_line()
        registry = await self._office.refresh()
        record = registry.record(subscription)
        count = 0
        for topic in registry.topics(record):
            places = {place_of(letter, record.number, topic) for letter in ids} - {None}
            if places:
                args = [record.number, what, *sorted(place for place in places if place is not None)]
                count += said(await line.run(LETTERS, [self._keys.stream(topic)], args), line.door)
        return count

    # -- subscriptions by name

    async def pause(self, subscription: str) -> None:
        """See `Inspectable.pause`."""
        self._check()
        await self._office.pause(subscription, paused=True)

    async def resume(self, subscription: str) -> None:
        """See `Inspectable.resume`."""
        self._check()
        await self._office.pause(subscription, paused=False)

    async def rename(self, subscription: str, to: str) -> None:
        """See `Inspectable.rename`."""
        self._check()
        await self._office.rename(subscription, to)

    async def retire(self, subscription: str) -> int:
        """See `Inspectable.retire`."""
        self._check()
        registry = await self._office.refresh()
        stats = await self._stats(registry, registry.record(subscription), 0)
        record, topics = await self._office.retire(subscription)
        await self._office.forget(record, topics)
        held = (stats.backlog, stats.in_flight, stats.scheduled, stats.retrying, stats.dead, stats.parked_events)
        return sum(held)

    async def seek(self, subscription: str, to: datetime) -> int:
        """See `Inspectable.seek`."""
        line = self._open_line()
        registry = await self._office.refresh()
        record = registry.record(subscription)
        since = to.timestamp()
        letters = [
            letter.id
            for topic in registry.topics(record)
            async for letter in letters_behind(line, self._keys, record, topic, None)
            if letter.envelope.time.timestamp() >= since
        ]
        replayed = await self._letters("replay", subscription, letters)
        return replayed + await refill(line, self._keys, registry, record, since)
