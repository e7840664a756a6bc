"""What can be seen and mended: figures, pages, dead letters, and subscriptions by name.  See `Inspectable`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from uuid import UUID

from ...delivery import DeadLetter
from ...envelope import Envelope
from ...errors import Closed
from ...finding import Finding
from ...recording import Record as Memory
from ...retrying import Retrying
from ...transport import DeadQuery, EventQuery, StoredEvent, SubscriptionInfo, SubscriptionStats, WorkerInfo
from .bell import Bell
from .examining import examined
from .hastening import moved, retries_of
from .letters import fits, letters_behind, place_of
from .line import Line, said
from .office import Office
from .recording import Memoirs
from .registry import Keys, Record, Registry
from .renewing import Beat, beat_of
from .scripts import AMEND, LETTERS
from .shelf import refill, stored_events
from .standing import standing, stats_of
from .trimming import Trimming
from .wire import pack

__all__ = ["Desk"]

# Dead letters that one script call moves: the server serves others too.
_AT_ONCE = 200


class Desk:
    """The part of the transport that people use."""

    _keys: Keys
    _office: Office
    _trimming: Trimming
    _bell: Bell
    _memoirs: Memoirs

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

    async def examine(self) -> Sequence[Finding]:
        """See `Examinable.examine`."""
        line = self._open_line()
        return await examined(line, self._keys, await self._office.refresh())

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
        asked = (standing(line, self._keys, record, topic) for topic in registry.topics(record))
        return stats_of(record, await asyncio.gather(*asked), workers)

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

    # -- remembered

    async def record(self, records: Sequence[Memory]) -> None:
        """See `Recording.record`."""
        self._check()
        await self._memoirs.record(records)

    async def records(
        self, kind: str, *, subject: str | None = None, since: str = "", limit: int = 100, after: str | None = None
    ) -> Sequence[Memory]:
        """See `Recording.records`."""
        self._check()
        return await self._memoirs.records(kind, subject=subject, since=since, limit=limit, after=after)

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

    async def amend(self, subscription: str, letter: UUID, envelope: Envelope) -> bool:
        """See `Amending.amend`."""
        line = self._open_line()
        record = (await self._office.refresh()).record(subscription)
        place = place_of(letter, record.number, envelope.log)
        if place is None:
            return False
        args = [record.number, place, envelope.name, envelope.key or "", pack(envelope)]
        return bool(said(await line.run(AMEND, [self._keys.stream(envelope.log)], args), line.door))

    async def _letters(self, what: str, subscription: str, ids: Sequence[UUID]) -> int:
        line = self._open_line()
        registry = await self._office.refresh()
        record = registry.record(subscription)
        count = 0
        for topic in registry.topics(record):
            places = sorted(found for letter in ids if (found := place_of(letter, record.number, topic)) is not None)
            for start in range(0, len(places), _AT_ONCE):
                args = [record.number, what, *dict.fromkeys(places[start : start + _AT_ONCE])]
                count += said(await line.run(LETTERS, [self._keys.stream(topic)], args), line.door)
        return count

    # -- retries

    async def retrying(self, subscription: str, *, limit: int = 100, after: str | None = None) -> Sequence[Retrying]:
        """See `Hastening.retrying`."""
        line = self._open_line()
        registry = await self._office.refresh()
        record = registry.record(subscription)
        return await retries_of(line, self._keys, registry, record, limit=limit, after=after)

    async def hasten(self, subscription: str, places: Sequence[str]) -> int:
        """See `Hastening.hasten`."""
        line = self._open_line()
        return await moved(line, self._keys, (await self._office.refresh()).record(subscription), "run", places)

    async def abandon(self, subscription: str, places: Sequence[str]) -> int:
        """See `Hastening.abandon`."""
        line = self._open_line()
        return await moved(line, self._keys, (await self._office.refresh()).record(subscription), "discard", places)

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
