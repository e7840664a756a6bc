"""The catalogue as one picture: who publishes on the left, events in the middle, who reacts on the right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup

from ..graph import EventNode
from ..shown import one_line

__all__ = ["picture_of"]

# The width of a box, the room between two columns, the height of a row and of the box in it.
_BOX, _GAP, _ROW, _HIGH = 272, 84, 34, 24
_LETTERS = 36
_Key = TypeVar("_Key")
_LEFT, _MIDDLE, _RIGHT = 0, _BOX + _GAP, 2 * (_BOX + _GAP)


@dataclass(frozen=True, slots=True)
class _Box:
    """One box: its place in its column, what it says, where it leads, how it looks."""

    label: str
    kind: str
    link: str
    row: float


def picture_of(nodes: Sequence[EventNode], url: Callable[..., str], levels: Mapping[str, str]) -> Markup:
    """These events with their publishers and reactors, as SVG.

    Args:
        nodes: the events, in their order.
        url: makes an address of this dashboard.
        levels: how each subscription does, by its name: 'good', 'warn', 'bad' or 'off'.
    """
    publishers = _ordered(_places(nodes, lambda node: node.publishers))
    reactors = _ordered(_places(nodes, _reactors))
    tall = max(len(nodes), len(publishers), len(reactors), 1)

    def rows(count: int) -> list[float]:
        return [(place + 0.5) * tall / count - 0.5 for place in range(count)]

    left = {name: _Box(name, "publisher", "", row) for name, row in zip(publishers, rows(len(publishers)), strict=True)}
    events = [
        _Box(node.name, "event", url("/events", name=node.name), row)
        for node, row in zip(nodes, rows(len(nodes)), strict=True)
    ]
    right = {
        key: _Box(key[1], "handler" if key[0] == "handler" else f"sub {levels.get(key[1], 'off')}",
                  "" if key[0] == "handler" else url(f"/subscriptions/{key[1]}"), row)
        for key, row in zip(reactors, rows(len(reactors)), strict=True)
    }  # fmt: skip
    lines = Markup("").join(
        Markup("").join([
            *(_line(_LEFT, left[name], _MIDDLE, event, "publishes") for name in node.publishers),
            *(_line(_MIDDLE, event, _RIGHT, right["handler", name], "calls") for name in node.handlers),
            *(_line(_MIDDLE, event, _RIGHT, right["sub", name], "takes") for name in node.subscriptions),
        ])
        for node, event in zip(nodes, events, strict=True)
    )  # fmt: skip
    boxes = [
        *(_drawn(_LEFT, box) for box in left.values()),
        *(_drawn(_MIDDLE, box) for box in events),
        *(_drawn(_RIGHT, box) for box in right.values()),
    ]
    said = f"{len(publishers)} publishers, {len(nodes)} events, {len(reactors)} reactors"
    begin = (_LEFT if publishers else _MIDDLE) - 2
    return Markup('<svg class="graph" viewBox="{} 0 {} {}" role="group" aria-label="{}">{}{}</svg>').format(
        begin, _RIGHT + _BOX + 2 - begin, tall * _ROW, said, lines, Markup("").join(boxes)
    )


def _reactors(node: EventNode) -> list[tuple[str, str]]:
    return [*(("handler", name) for name in node.handlers), *(("sub", name) for name in node.subscriptions)]


def _places(nodes: Sequence[EventNode], names_of: Callable[[EventNode], Iterable[_Key]]) -> dict[_Key, list[int]]:
    """The events that each of them is joined to, by number."""
    found: dict[_Key, list[int]] = {}
    for number, node in enumerate(nodes):
        for name in names_of(node):
            found.setdefault(name, []).append(number)
    return found


def _ordered(places: Mapping[_Key, Sequence[int]]) -> list[_Key]:
    """Near the middle of what they are joined to, so that few lines cross."""
    return sorted(places, key=lambda name: sum(places[name]) / max(1, len(places[name])))


def _y(box: _Box) -> float:
    return box.row * _ROW + _ROW / 2


def _line(from_x: int, one: _Box, to_x: int, other: _Box, kind: str) -> Markup:
    begin, end = from_x + _BOX, to_x
    bend = (end - begin) / 2
    return Markup('<path class="{}" d="M{} {:.1f}C{} {:.1f} {} {:.1f} {} {:.1f}"/>').format(
        kind, begin, _y(one), begin + bend, _y(one), end - bend, _y(other), end, _y(other)
    )


def _drawn(x: int, box: _Box) -> Markup:
    label = one_line(box.label, 200)
    short = label if len(label) <= _LETTERS else f"…{label[1 - _LETTERS :]}"
    y = _y(box)
    dot = Markup('<circle class="level" cx="{}" cy="{:.1f}" r="4"/>').format(x + 14, y) if "sub" in box.kind else ""
    drawn = Markup(
        '<g class="{}"><title>{}</title><rect x="{}" y="{:.1f}" width="{}" height="{}" rx="6"/>{}'
        '<text x="{}" y="{:.1f}">{}</text></g>'
    ).format(box.kind, label, x, y - _HIGH / 2, _BOX, _HIGH, dot, x + (24 if dot else 10), y + 4, short)
    return Markup('<a href="{}">{}</a>').format(box.link, drawn) if box.link else drawn
