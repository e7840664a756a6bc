"""What an event led to: the family of one chain, from its first event on, as a tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from .inspection import Events
from .transport import StoredEvent

__all__ = ["Cause", "Lineage", "lineage_of"]

# Events of one family that are searched for.
_FAMILY = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One event of a family, and what handling it published.

    Attributes:
        event_id: whose.
        stored: the event, or None when it is no longer stored and only known from what it led to.
        effects: in the order they were published.
    """

    event_id: UUID
    stored: StoredEvent | None = None
    effects: tuple[Cause, ...] = ()

    @property
    def name(self) -> str | None:
        """The event's wire name, where it is known."""
        return None if self.stored is None else self.stored.envelope.name


@dataclass(frozen=True, slots=True)
class Lineage:
    """All events that one event led to, as a tree.

    Attributes:
        root: the first one.
        cut: there were more than are shown.
    """

    root: Cause
    cut: bool = False

    def walk(self) -> Iterator[tuple[int, Cause]]:
        """Each event with its depth, parents first."""
        waiting = [(0, self.root)]
        while waiting:
            depth, cause = waiting.pop()
            yield depth, cause
            waiting += [(depth + 1, effect) for effect in reversed(cause.effects)]


async def lineage_of(events: Events, event_id: UUID) -> Lineage:
    """The family of this event, as far as it is still stored."""
    stored = await events.get(event_id)
    first = event_id if stored is None else _uuid(stored.envelope.correlation_id) or event_id
    family: dict[UUID, StoredEvent] = {} if stored is None else {event_id: stored}
    cut = False
    async for one in events.each(correlation_id=str(first)):
        if len(family) >= _FAMILY:
            cut = True
            break
        family[one.envelope.id] = one
    root = await events.get(first)
    if root is not None:
        family[first] = root
    return Lineage(_tree(first, family), cut)


def _tree(first: UUID, family: Mapping[UUID, StoredEvent]) -> Cause:
    children: dict[UUID, list[UUID]] = {}
    known = dict.fromkeys([*family, first])
    for event_id, stored in family.items():
        parent = _uuid(stored.envelope.causation_id)
        if event_id == first:
            continue
        if parent is None or parent == event_id:
            parent = first
        elif parent not in known:  # it is gone: it stands between the first and what it led to
            known[parent] = None
            children.setdefault(first, []).append(parent)
        children.setdefault(parent, []).append(event_id)
    return _branch(first, family, children)


def _branch(first: UUID, family: Mapping[UUID, StoredEvent], children: Mapping[UUID, list[UUID]]) -> Cause:
    """Without recursion: a chain may be as long as a family.  Whoever is his own ancestor is shown once."""
    order, seen = [first], {first}
    for event_id in order:
        fresh = [child for child in children.get(event_id, ()) if child not in seen]
        seen.update(fresh)
        order += fresh
    made: dict[UUID, Cause] = {}
    for event_id in reversed(order):
        effects = [made[child] for child in children.get(event_id, ()) if child in made]
        effects.sort(key=lambda cause: (cause.stored.envelope.micros if cause.stored else 0, cause.event_id.bytes))
        made[event_id] = Cause(event_id=event_id, stored=family.get(event_id), effects=tuple(effects))
    return made[first]


def _uuid(text: str | None) -> UUID | None:
    try:
        return None if text is None else UUID(text)
    except ValueError:
        return None
