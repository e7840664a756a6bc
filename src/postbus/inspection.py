"""What is stored can be seen and mended: dead letters, durable subscriptions, stored events, health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from .catalog import Catalog
from .delivery import DeadLetter
from .envelope import OBJECT, Envelope
from .errors import CodecError, ConfigError, UnknownSubscription
from .event import valid_name
from .transport import (
    DeadQuery,
    EventQuery,
    Inspectable,
    StoredEvent,
    SubscriptionInfo,
    SubscriptionStats,
    Transport,
)

__all__ = ["DeadLetters", "Events", "Health", "Stats", "Subscriptions", "inspectable"]

# Dead letters moved by one call of the transport: enough to be quick, few enough to hold no lock for long.
_CHUNK = 200

_Open = Callable[[], Awaitable[Transport]]


class Stats(dict[str, SubscriptionStats]):
    """Subscription name to how it stands, with totals."""

    @property
    def backlog(self) -> int:
        """Ready and not claimed, in all subscriptions."""
        return sum(s.backlog for s in self.values())

    @property
    def in_flight(self) -> int:
        """Leased, in all subscriptions."""
        return sum(s.in_flight for s in self.values())

    @property
    def scheduled(self) -> int:
        """Waiting for their delay, in all subscriptions."""
        return sum(s.scheduled for s in self.values())

    @property
    def retrying(self) -> int:
        """Requeued and not due, in all subscriptions."""
        return sum(s.retrying for s in self.values())

    @property
    def dead(self) -> int:
        """Dead letters of all subscriptions."""
        return sum(s.dead for s in self.values())

    @property
    def oldest_age(self) -> float | None:
        """Seconds since the oldest unfinished event was published."""
        return max((s.oldest_age for s in self.values() if s.oldest_age is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the bus can do its work.

    Attributes:
        connected: the transport answered.
        latency: seconds for one round trip, or None.
        backlog, oldest_age, dead: as in `Stats`.
        error: why it is not connected.
    """

    connected: bool
    latency: float | None = None
    backlog: int = 0
    oldest_age: float | None = None
    dead: int = 0
    error: str | None = None

    @property
    def ok(self) -> bool:
        """The same as `connected`."""
        return self.connected

    def __bool__(self) -> bool:
        return self.connected


def inspectable(transport: Transport) -> Inspectable:
    """Return the transport as one that can be inspected.

    Raises:
        ConfigError: when it cannot.
    """
    if isinstance(transport, Inspectable):
        return transport
    raise ConfigError(f"{transport.traits.name}:// cannot be inspected")


class DeadLetters:
    """`bus.dead`: buried deliveries, from any process that opens the bus."""

    def __init__(self, opened: _Open, catalog: Catalog) -> None:
        self._opened = opened
        self._catalog = catalog

    async def list(
        self, subscription: str | None = None, *, limit: int = 100, after: UUID | DeadLetter | None = None, **query: Any
    ) -> Sequence[DeadLetter]:
        """One page of dead letters, oldest burial first.

        Args:
            subscription: only of this one.
            limit: at most so many.
            after: those behind this letter: the last one of the page before.
            query: fields of `DeadQuery`: ids, name, key, error, reason, before.

        Raises:
            UnknownSubscription: when there is none of that name.
        """
        behind = after.id if isinstance(after, DeadLetter) else after
        store = inspectable(await self._opened())
        await _known(store, subscription)
        letters = await store.dead(subscription, _query(query), limit=max(1, limit), after=behind)
        return [self._with_bytes(letter) for letter in letters]

    async def each(self, subscription: str | None = None, **query: Any) -> AsyncIterator[DeadLetter]:
        """All dead letters that match, page by page."""
        after: DeadLetter | None = None
        while page := await self.list(subscription, limit=_CHUNK, after=after, **query):
            for letter in page:
                yield letter
            after = page[-1]

    async def get(self, id: UUID) -> DeadLetter | None:  # noqa: A002 - the word of the public API
        """The dead letter of this id; an event's id is fine where only one subscription buried it."""
        found = await self.list(None, limit=1, ids=(id,))
        return found[0] if found else None

    async def count(self, subscription: str | None = None, **query: Any) -> int:
        """How many match."""
        return sum([1 async for _ in self.each(subscription, **query)])

    async def replay(
        self,
        subscription: str,
        ids: Sequence[UUID] | None = None,
        *,
        progress: Callable[[int], None] | None = None,
        **query: Any,
    ) -> int:
        """Make dead letters ready again, for their subscription only and with no attempt spent; return how many.

        Args:
            subscription: whose.
            ids: these; None means all that match `query`.
            progress: told the number done after each chunk.
            query: fields of `DeadQuery`.
        """
        store = inspectable(await self._opened())
        return await self._chunks(store.replay, subscription, ids, progress, query)

    async def discard(
        self,
        subscription: str,
        ids: Sequence[UUID] | None = None,
        *,
        progress: Callable[[int], None] | None = None,
        **query: Any,
    ) -> int:
        """Delete dead letters for good; arguments as of `replay`; return how many."""
        store = inspectable(await self._opened())
        return await self._chunks(store.discard, subscription, ids, progress, query)

    async def _chunks(
        self,
        act: Callable[[str, Sequence[UUID]], Awaitable[int]],
        subscription: str,
        ids: Sequence[UUID] | None,
        progress: Callable[[int], None] | None,
        query: dict[str, Any],
    ) -> int:
        """Decide on all of them first: a letter that is buried again meanwhile must not be replayed twice."""
        if ids is not None:
            query["ids"] = tuple(ids)
        chosen = [letter.id async for letter in self.each(subscription, **query)]
        done = 0
        for start in range(0, len(chosen), _CHUNK):
            done += await act(subscription, chosen[start : start + _CHUNK])
            if progress is not None:
                progress(done)
        return done

    def _with_bytes(self, letter: DeadLetter) -> DeadLetter:
        envelope = _sealed(self._catalog, letter.envelope, letter.event)
        return letter if envelope is letter.envelope else msgspec.structs.replace(letter, envelope=envelope, event=None)


class Subscriptions:
    """`bus.subscriptions`: what is durable at the transport, whatever the code says now."""

    def __init__(self, opened: _Open) -> None:
        self._opened = opened

    async def list(self) -> Sequence[SubscriptionInfo]:
        """Every durable subscription, by name."""
        return await inspectable(await self._opened()).subscriptions()

    async def pause(self, name: str) -> None:
        """Hold back its deliveries until `resume`; they are kept."""
        await (await self._store(name)).pause(name)

    async def resume(self, name: str) -> None:
        """Deliver again."""
        await (await self._store(name)).resume(name)

    async def rename(self, name: str, to: str) -> None:
        """Give it a new name, with all it holds; rename the subscriber in the code too, or add `was=`."""
        valid_name(to, "subscription name")
        await (await self._store(name)).rename(name, to)

    async def retire(self, name: str) -> int:
        """Delete it with all it holds; return how many deliveries and dead letters went with it."""
        return await (await self._store(name)).retire(name)

    async def seek(self, name: str, to: datetime) -> int:
        """Deliver again, to it only, what is stored since `to`; return how many events."""
        return await (await self._store(name)).seek(name, to)

    async def _store(self, name: str) -> Inspectable:
        store = inspectable(await self._opened())
        await _known(store, name)
        return store


class Events:
    """`bus.events`: what the transport still holds, newest first."""

    def __init__(self, opened: _Open, catalog: Catalog) -> None:
        self._opened = opened
        self._catalog = catalog

    async def list(self, *, limit: int = 100, after: str | None = None, **query: Any) -> Sequence[StoredEvent]:
        """One page of stored events; `query` are fields of `EventQuery`: id, name, key, correlation_id."""
        store = inspectable(await self._opened())
        found = await store.events(EventQuery(**query), limit=max(1, limit), after=after)
        return [self._with_bytes(event) for event in found]

    async def each(self, **query: Any) -> AsyncIterator[StoredEvent]:
        """All stored events that match, page by page."""
        after: str | None = None
        while page := await self.list(limit=_CHUNK, after=after, **query):
            for event in page:
                yield event
            after = page[-1].cursor

    async def get(self, id: UUID) -> StoredEvent | None:  # noqa: A002 - the word of the public API
        """The stored event of this id, or None."""
        found = await self.list(limit=1, id=id)
        return found[0] if found else None

    def _with_bytes(self, stored: StoredEvent) -> StoredEvent:
        envelope = _sealed(self._catalog, stored.envelope, stored.event)
        return stored if envelope is stored.envelope else replace(stored, envelope=envelope, event=None)


def _sealed(catalog: Catalog, envelope: Envelope, event: object) -> Envelope:
    """With the bytes of an event that a transport passed as an object; without, where it has none."""
    try:
        return envelope if envelope.format != OBJECT else catalog.sealed(envelope, event)
    except CodecError:  # it was never encoded before: one such letter must not hide all others
        return envelope


def _query(fields: dict[str, Any]) -> DeadQuery:
    return DeadQuery(**{**fields, **({"ids": tuple(fields["ids"])} if fields.get("ids") is not None else {})})


async def _known(store: Inspectable, name: str | None) -> None:
    if name is None:
        return
    names = [info.name for info in await store.subscriptions()]
    if name not in names:
        have = f"there are {', '.join(sorted(names))}" if names else "there are none"
        raise UnknownSubscription(f"no subscription is named {name!r}: {have}")
