"""The outbox of a bus: where its publishes wait for a relay, in a database whose transactions they can join."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from .address import Address, Settings
from .catalog import Catalog
from .delivery import DeadLetter
from .errors import ConfigError
from .hold import OUTBOX, outbox_spec, spool_of
from .inspection import Events, OutboxStats, Subscriptions, inspectable
from .letters import DeadLetters
from .lifecycle import Lifecycle
from .transport import StoredEvent, SubscriptionSpec, Transport

__all__ = ["Outbox", "opening"]


class Outbox:
    """`bus.outbox`: what waits for a relay, and what no relay can carry.

    Its dead letters are those of the subscription `postbus.outbox`: `bus.dead` and `postbus dead` know it, too.
    """

    def __init__(self, life: Lifecycle, dead: DeadLetters, subscriptions: Subscriptions, catalog: Catalog) -> None:
        self._life = life
        self._events = Events(life.ready, catalog)
        self._dead = dead
        self._subscriptions = subscriptions

    @property
    def transport(self) -> Transport:
        """What holds it, for `doctor` and for tests."""
        return self._life.transport

    async def stats(self) -> OutboxStats:
        """How it stands now.

        Raises:
            TransportError: when its database cannot be reached.
        """
        store = inspectable(await self._life.ready())
        found = await store.stats([OUTBOX])
        relays = sorted(await store.workers(), key=lambda one: (bool(one.trouble), one.started_at, one.owner))
        if not found:
            return OutboxStats(relays=tuple(relays))
        (one,) = found
        return OutboxStats(
            pending=one.backlog + one.scheduled + one.retrying + one.in_flight,
            oldest_age=one.oldest_age,
            dead=one.dead,
            relays=tuple(relays),
            trouble=relays[0].trouble if relays else "",
            paused=one.paused,
        )

    async def list(self, *, limit: int = 100, after: str | None = None, **query: Any) -> Sequence[StoredEvent]:
        """One page of what it holds, newest first; arguments as of `bus.events.list`."""
        return await self._events.list(limit=limit, after=after, **query)

    async def dead(self, *, limit: int = 100, after: DeadLetter | None = None, **query: Any) -> Sequence[DeadLetter]:
        """One page of its dead letters, oldest burial first; arguments as of `bus.dead.list`."""
        return await self._dead.list(OUTBOX, limit=limit, after=after, **query)

    async def replay(self, ids: Sequence[UUID] | None = None, **query: Any) -> int:
        """Have dead letters relayed again; None means all that match `query`; return how many."""
        return await self._dead.replay(OUTBOX, ids, **query)

    async def discard(self, ids: Sequence[UUID] | None = None, **query: Any) -> int:
        """Delete dead letters for good; arguments as of `replay`; return how many."""
        return await self._dead.discard(OUTBOX, ids, **query)

    async def pause(self) -> None:
        """Relay nothing until `resume`; what is published is kept."""
        await self._subscriptions.pause(OUTBOX)

    async def resume(self) -> None:
        """Relay again."""
        await self._subscriptions.resume(OUTBOX)


def opening(
    outbox: str | None,
    address: Address,
    settings: Settings,
    *,
    declares: bool,
    specs: Callable[[], Sequence[SubscriptionSpec]],
) -> Lifecycle:
    """The life of a bus's transport, with an outbox before it where there is one.

    Raises:
        ConfigError: when the outbox cannot be one, or that transport needs none.
    """
    if outbox is None:
        return Lifecycle(address, settings, declares=declares, specs=specs)
    place = Address.parse(outbox)
    if address.scheme == "memory":
        raise ConfigError(
            f"outbox={str(place)!r} with {address}: events in memory live in one process, and a relay in another one "
            f"would carry them to where nobody looks; use a server's URL, or leave out outbox="
        )
    if (place.scheme, place.rest) == (address.scheme, address.rest):
        raise ConfigError(
            f"outbox={str(place)!r} is the transport's own database, whose transactions publishes join without an "
            f"outbox: leave it out"
        )
    # What was relayed is gone from here: it is the target that keeps it, if `retain` asks for it.
    own = replace(settings, namespace=f"{settings.namespace}_outbox", retain=None)
    front = Lifecycle(place, own, declares=True, specs=lambda: [outbox_spec()])
    spool_of(front.transport)
    return Lifecycle(address, settings, declares=declares, specs=specs, front=front)
