"""Which subscriptions take an event: read once, and again only when the tables say that something was declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ...errors import UnknownSubscription
from ...transport import Stored, SubscriptionSpec
from .schema import Tables
from .spans import Execute

__all__ = ["Place", "Route", "Routing", "RoutingCache", "pack_spec", "unpack_spec"]

# Names that are asked for may be anybody's; past this many the answers are forgotten.
_REMEMBERED = 10_000

_SPEC = msgspec.json.Decoder(SubscriptionSpec)


@dataclass(frozen=True, slots=True)
class Place:
    """One subscription: its row id, its name now, its declaration, and whether claims are refused."""

    id: int
    spec: SubscriptionSpec
    paused: bool


class Route:
    """Where an event goes: `plain` subscriptions, `ordered` ones, and the answer its publisher gets."""

    __slots__ = ("count", "ordered", "plain", "stored")

    def __init__(self, places: Sequence[Place]) -> None:
        self.plain = tuple(place.id for place in places if not place.spec.ordered)
        self.ordered = tuple(place.id for place in places if place.spec.ordered)
        self.count = len(places)
        self.stored = Stored(self.count)


class Routing:
    """The subscriptions as of one revision."""

    def __init__(self, revision: int, places: Sequence[Place]) -> None:
        self.revision = revision
        self.by_name = {place.spec.name: place for place in places}
        self.by_id = {place.id: place for place in places}
        self._routes: dict[tuple[str, str], Route] = {}

    def route(self, name: str, topic: str) -> Route:
        """Where an event of this name and topic goes."""
        found = self._routes.get((name, topic))
        if found is None:
            if len(self._routes) >= _REMEMBERED:
                self._routes.clear()
            found = Route([place for place in self.by_name.values() if place.spec.takes(name, topic)])
            self._routes[name, topic] = found
        return found

    def place(self, name: str) -> Place:
        """Return the subscription of this name.

        Raises:
            UnknownSubscription: when there is none.
        """
        try:
            return self.by_name[name]
        except KeyError:
            raise UnknownSubscription(f"no subscription is named {name!r}: declare it first") from None


class RoutingCache:
    """The last routing read.  Forget it when a transaction that may have read its own changes is rolled back."""

    def __init__(self, tables: Tables) -> None:
        self._select = tables("SELECT id, paused, spec FROM {subscription} WHERE name IS NOT NULL ORDER BY id")
        self._known: Routing | None = None

    def at(self, revision: int, execute: Execute) -> Routing:
        """The routing of this revision; reads it where another one is known."""
        known = self._known
        if known is None or known.revision != revision:
            rows = execute(self._select).fetchall()
            known = Routing(revision, [Place(id_, unpack_spec(spec), bool(paused)) for id_, paused, spec in rows])
            self._known = known
        return known

    def forget(self) -> None:
        """Read again next time."""
        self._known = None


def pack_spec(spec: SubscriptionSpec) -> bytes:
    """A declaration as it is stored."""
    return msgspec.json.encode(spec)


def unpack_spec(raw: bytes) -> SubscriptionSpec:
    """A declaration as it was stored; fields that a newer postbus added are ignored."""
    return _SPEC.decode(raw)
