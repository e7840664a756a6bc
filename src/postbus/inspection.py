"""What is stored can be seen: how subscriptions stand, stored events, health; and subscriptions be seen to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

from .bulk import CHUNK
from .catalog import Catalog
from .envelope import OBJECT, Envelope
from .errors import CodecError, ConfigError, UnknownSubscription
from .event import valid_name
from .journal import Journal
from .transport import (
    EventQuery,
    Inspectable,
    StoredEvent,
    SubscriptionInfo,
    SubscriptionStats,
    Transport,
    WorkerInfo,
)

__all__ = [
    "NOWHERE",
    "Events",
    "Health",
    "Opening",
    "OutboxStats",
    "Stats",
    "Subscriptions",
    "inspectable",
    "known",
    "sealed",
]

# Opens a store, where it is not open yet, and gives it.
Opening: TypeAlias = Callable[[], Awaitable[Transport]]
# Every subscription is where the bus is.
NOWHERE: Mapping[str, Opening] = MappingProxyType({})


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
class OutboxStats:
    """How an outbox stands.

    Attributes:
        pending: events that are stored and not yet relayed.
        oldest_age: seconds since the oldest of them was published; None when there is none.
        dead: events that the transport will never take: dead letters of the outbox.
        relays: the relays that live, of every process; the first one relays, the others wait for their turn.
        trouble: why nothing can be relayed at the moment; empty when all is well.
        paused: whether somebody paused it.
    """

    pending: int = 0
    oldest_age: float | None = None
    dead: int = 0
    relays: tuple[WorkerInfo, ...] = ()
    trouble: str = ""
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the bus can do its work.

    Attributes:
        connected: the transport answered.
        latency: seconds for one round trip, or None.
        backlog, oldest_age, dead: as in `Stats`.
        error: why it is not connected.
        outbox: how the bus's outbox stands, if it has one: publishes need only that.
    """

    connected: bool
    latency: float | None = None
    backlog: int = 0
    oldest_age: float | None = None
    dead: int = 0
    error: str | None = None
    outbox: OutboxStats | None = None

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


class Subscriptions:
    """`bus.subscriptions`: what is durable at the transport, whatever the code says now."""

    def __init__(self, opened: Opening, journal: Journal, elsewhere: Mapping[str, Opening] = NOWHERE) -> None:
        """Make it; `elsewhere` says which subscriptions another store holds."""
        self._opened = opened
        self._elsewhere = elsewhere
        self._journal = journal

    async def list(self) -> Sequence[SubscriptionInfo]:
        """Every durable subscription, by name."""
        return await inspectable(await self._opened()).subscriptions()

    async def pause(self, name: str) -> None:
        """Hold back its deliveries until `resume`; they are kept."""
        await (await self._store(name)).pause(name)
        await self._journal.note("subscription.pause", name)

    async def resume(self, name: str) -> None:
        """Deliver again."""
        await (await self._store(name)).resume(name)
        await self._journal.note("subscription.resume", name)

    async def rename(self, name: str, to: str) -> None:
        """Give it a new name, with all it holds; rename the subscriber in the code too, or add `was=`."""
        valid_name(to, "subscription name")
        await (await self._store(name)).rename(name, to)
        await self._journal.note("subscription.rename", name, detail=f"to {to}")

    async def retire(self, name: str) -> int:
        """Delete it with all it holds; return how many deliveries and dead letters went with it."""
        gone = await (await self._store(name)).retire(name)
        await self._journal.note("subscription.retire", name, result=f"{gone} deliveries and dead letters")
        return gone

    async def seek(self, name: str, to: datetime) -> int:
        """Deliver again, to it only, what is stored since `to`; return how many events."""
        again = await (await self._store(name)).seek(name, to)
        await self._journal.note("subscription.seek", name, detail=f"to {to.isoformat()}", result=f"{again} events")
        return again

    async def _store(self, name: str) -> Inspectable:
        store = inspectable(await self._elsewhere.get(name, self._opened)())
        await known(store, name)
        return store


class Events:
    """`bus.events`: what the transport still holds, newest first."""

    def __init__(self, opened: Opening, catalog: Catalog) -> None:
        self._opened = opened
        self._catalog = catalog

    async def list(self, *, limit: int = 100, after: str | None = None, **query: Any) -> Sequence[StoredEvent]:
        """One page of stored events; `query` are fields of `EventQuery`."""
        store = inspectable(await self._opened())
        found = await store.events(EventQuery(**query), limit=max(1, limit), after=after)
        return [self._with_bytes(event) for event in found]

    async def each(self, **query: Any) -> AsyncIterator[StoredEvent]:
        """All stored events that match, page by page."""
        after: str | None = None
        while page := await self.list(limit=CHUNK, after=after, **query):
            for event in page:
                yield event
            after = page[-1].cursor

    async def get(self, id: UUID) -> StoredEvent | None:  # noqa: A002 - the word of the public API
        """The stored event of this id, or None."""
        found = await self.list(limit=1, id=id)
        return found[0] if found else None

    def _with_bytes(self, stored: StoredEvent) -> StoredEvent:
        envelope = sealed(self._catalog, stored.envelope, stored.event)
        return stored if envelope is stored.envelope else replace(stored, envelope=envelope, event=None)


def sealed(catalog: Catalog, envelope: Envelope, event: object) -> Envelope:
    """With the bytes of an event that a transport passed as an object; without, where it has none."""
    try:
        return envelope if envelope.format != OBJECT else catalog.sealed(envelope, event)
    except CodecError:  # it was never encoded before: one such letter must not hide all others
        return envelope


async def known(store: Inspectable, name: str | None) -> None:
    """See that there is a subscription of that name, if one is named.

    Raises:
        UnknownSubscription: when there is none.
    """
    if name is None:
        return
    names = [info.name for info in await store.subscriptions()]
    if name not in names:
        have = f"there are {', '.join(sorted(names))}" if names else "there are none"
        raise UnknownSubscription(f"no subscription is named {name!r}: {have}")
