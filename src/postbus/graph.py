"""Who publishes each event, and who reacts to it: as data, as text and as a Mermaid chart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .bus import Bus
from .publishers import publishers_in, source_modules
from .schema import Described, described

__all__ = ["EventNode", "Graph", "graph_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventNode:
    """One event, and everybody who has to do with it.

    Attributes:
        name, topic, version: as its mark says.
        class_name: `module.Class`; None where only the name is known.
        schema: the payload's JSON Schema, or None.
        publishers: functions whose source publishes it, as `module:function`; see `postbus.publishers`.
        handlers: functions that run in-process.
        subscriptions: the names of those that take it.
    """

    name: str
    topic: str
    version: int
    class_name: str | None
    schema: Mapping[str, Any] | None
    publishers: tuple[str, ...]
    handlers: tuple[str, ...]
    subscriptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """All events of one program."""

    events: tuple[EventNode, ...]

    def as_dict(self) -> list[dict[str, Any]]:
        """As plain data."""
        return [asdict(event) for event in self.events]

    def text(self) -> str:
        """For a terminal: each event with an arrow from who publishes it, and one to who reacts."""
        lines = []
        for event in self.events:
            lines.append(f"{event.name}  (topic {event.topic}, version {event.version})")
            lines += [f"  <- {publisher}" for publisher in event.publishers or ("nobody that the source shows",)]
            lines += [f"  => {handler}" for handler in event.handlers]
            lines += [f"  -> {subscription}" for subscription in event.subscriptions]
            if not event.handlers and not event.subscriptions:
                lines.append("  -> nobody")
        return "\n".join(lines)

    def mermaid(self) -> str:
        """As a Mermaid flowchart: functions, events, subscriptions."""
        nodes: dict[tuple[str, str], str] = {}
        lines = ["flowchart LR"]

        def node(kind: str, label: str) -> str:
            if (kind, label) not in nodes:
                nodes[kind, label] = f"n{len(nodes)}"
                opening, closing = {"event": ("([", "])"), "function": ("[", "]"), "subscription": ("[[", "]]")}[kind]
                safe = label.replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
                lines.append(f'    {nodes[kind, label]}{opening}"{safe}"{closing}')
            return nodes[kind, label]

        for event in self.events:
            own = node("event", event.name)
            lines.extend(f"    {node('function', name)} --> {own}" for name in event.publishers)
            lines.extend(f"    {own} ==> {node('function', name)}" for name in event.handlers)
            lines.extend(f"    {own} --> {node('subscription', name)}" for name in event.subscriptions)
        return "\n".join(lines)


def graph_of(bus: Bus) -> Graph:
    """Who publishes and who reacts, by what the program declares and what its source shows.  Needs no transport."""
    known = described(bus)
    types = bus.catalog.types()
    functions = [*(handler.label for handler in bus.handlers), *(one.label for one in bus.subscribers)]
    modules = {*(kind.__module__ for kind in types.values()), *(label.partition(":")[0] for label in functions)}
    publishers = publishers_in(source_modules(modules))
    return Graph(tuple(_node(bus, one, types.get(one.name), publishers) for one in known.values()))


def _node(bus: Bus, one: Described, kind: type[Any] | None, publishers: Mapping[str, set[str]]) -> EventNode:
    handlers = [h.label for h in bus.handlers if h.interest.type_for(one.name) is not None]
    return EventNode(
        name=one.name,
        topic=one.topic,
        version=one.version,
        class_name=None if kind is None else f"{kind.__module__}.{kind.__qualname__}",
        schema=one.schema,
        publishers=tuple(sorted(publishers.get(one.name, ()))),
        handlers=tuple(handlers),
        subscriptions=tuple(sorted(s.name for s in bus.subscribers if s.spec().takes(one.name, one.topic))),
    )
