"""Which subscriptions take an event: read once, and again when the server says that something was declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ...transport import Stored, SubscriptionSpec
from .line import Ask, Line, Row
from .schema import Tables

__all__ = ["Place", "Registry", "Route", "Routing", "pack_spec", "unpack_spec"]

# Names that are asked for may be anybody's; past this many the answers are forgotten.
_REMEMBERED = 10_000

_SPEC = msgspec.json.Decoder(SubscriptionSpec)


@dataclass(frozen=True, slots=True)
class Place:
    """One subscription: its row id, and its declaration."""

    id: int
    spec: SubscriptionSpec


class Route:
    """Where an event goes, and the answer its publisher gets."""

    __slots__ = ("ids", "ids_text", "ordered", "ordered_text", "stored")

    def __init__(self, places: Sequence[Place]) -> None:
        self.ids = tuple(place.id for place in places)
        self.ordered = tuple(place.spec.ordered for place in places)
        self.ids_text = f"{{{','.join(map(str, self.ids))}}}"
        self.ordered_text = f"{{{','.join('t' if ordered else 'f' for ordered in self.ordered)}}}"
        self.stored = Stored(len(self.ids))


class Routing:
    """The subscriptions as of one revision."""

    def __init__(self, revision: int, places: Sequence[Place]) -> None:
        self.revision = revision
        self.by_id = {place.id: place for place in places}
        self._routes: dict[tuple[str, str], Route] = {}

    def route(self, name: str, topic: str) -> Route:
        """Where an event of this name and topic goes."""
        found = self._routes.get((name, topic))
        if found is None:
            if len(self._routes) >= _REMEMBERED:
                self._routes.clear()
            found = Route([place for place in self.by_id.values() if place.spec.takes(name, topic)])
            self._routes[name, topic] = found
        return found

    def names(self, ids: Sequence[int]) -> set[str]:
        """What these are called; those that are unknown are left out."""
        return {place.spec.name for id_ in ids if (place := self.by_id.get(id_)) is not None}


class Registry:
    """The last routing read."""

    def __init__(self, line: Line, tables: Tables) -> None:
        self._line = line
        self.select = tables(
            "SELECT m.revision, s.id, s.spec::text FROM postbus.meta m "
            "LEFT JOIN postbus.subscription s ON s.name IS NOT NULL ORDER BY s.id"
        )
        self.last: Routing | None = None

    async def routing(self) -> Routing:
        """As it was last read."""
        return self.last or await self.read()

    async def read(self) -> Routing:
        """As it is now."""
        found = await self.read_by(self._line.ask)
        if self.last is None or found.revision >= self.last.revision:
            self.last = found
        return found

    async def read_by(self, ask: Ask) -> Routing:
        """As this connection sees it."""
        return self.routing_of(await ask(self.select, ()))

    def routing_of(self, rows: Sequence[Row]) -> Routing:
        """What the rows of `select` say."""
        return Routing(rows[0][0], [Place(id_, unpack_spec(spec)) for _, id_, spec in rows if id_ is not None])


def pack_spec(spec: SubscriptionSpec) -> str:
    """A declaration as it is stored."""
    return msgspec.json.encode(spec).decode()


def unpack_spec(text: str) -> SubscriptionSpec:
    """A declaration as it was stored; fields that a newer postbus added are ignored."""
    return _SPEC.decode(text)
