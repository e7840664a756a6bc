"""A payload as a tree to look at: exact numbers, every text as text, and no more of it than a page can show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

__all__ = ["Node", "as_text", "parsed", "tree_of"]

_MOST_NODES = 1500
_LONGEST = 2000


@dataclass(slots=True)
class Node:
    """One value.

    Attributes:
        label: its name or place in what holds it; None for the whole.
        kind: 'object', 'list', 'text', 'number', 'word' (true, false, null), 'bytes' or 'more'.
        text: the value, or how much is inside.
        children: what is inside.
    """

    label: str | None
    kind: str
    text: str
    children: list[Node] = field(default_factory=list)


def tree_of(payload: Any) -> Node:
    """The whole payload; what is beyond the first 1,500 values is counted only."""
    return _node(None, payload, iter(range(_MOST_NODES)))


def _node(label: str | None, value: Any, budget: Iterator[int]) -> Node:  # noqa: PLR0911 - a case for each kind
    match value:
        case dict():
            many = f"{len(value):,} field{'s' * (len(value) != 1)}"
            return _holding(Node(label, "object", many), [(_label(k), v) for k, v in value.items()], budget)
        case list() | tuple():
            many = f"{len(value):,} item{'s' * (len(value) != 1)}"
            return _holding(Node(label, "list", many), [(str(n), v) for n, v in enumerate(value)], budget)
        case None | True | False:
            return Node(label, "word", json.dumps(value))
        case int():
            return Node(label, "number", str(value) if value.bit_length() < 4000 else hex(value))
        case float():
            return Node(label, "number", repr(value))
        case bytes():
            return Node(label, "bytes", _clipped(value.hex(" ")))
        case str():
            return Node(label, "text", _clipped(value))
        case datetime() | date() | time():
            return Node(label, "text", value.isoformat())
        case _:
            return Node(label, "text", _clipped(str(value)))


def _holding(node: Node, inside: list[tuple[str, Any]], budget: Iterator[int]) -> Node:
    for place, (label, value) in enumerate(inside):
        if next(budget, None) is None:
            node.children.append(Node(None, "more", f"{len(inside) - place:,} more"))
            break
        node.children.append(_node(label, value, budget))
    return node


def _label(key: object) -> str:
    return _clipped(key if isinstance(key, str) else str(key))


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text) - _LONGEST:,} more characters)"


def as_text(payload: Any) -> str | None:
    """The payload as JSON to copy and to amend; None where JSON cannot say it."""
    try:
        text = json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        return None
    # What cannot be printed is spelled as JSON spells it, so that the text still means the same.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def parsed(text: str) -> Any:
    """A payload that somebody wrote.

    Raises:
        ValueError: when it is no JSON, saying where.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
