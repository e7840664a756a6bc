"""What a payload may not hold: floats that are no number, nesting without end, UTC offsets of odd seconds.

Owns where to look and how to name the place.  Knows no format: codec.py decides when a look is worth its time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, time
from functools import reduce
from itertools import chain
from math import isfinite
from operator import or_
from typing import Any

from msgspec import inspect

__all__ = ["MAX_DEPTH", "OFFSET", "OPEN", "Shape", "culprit", "direct_floats", "misfit", "shape_of", "too_deep"]

# How many containers may hold one another, the event itself included.
MAX_DEPTH = 64

# A UTC offset behind a time of day, in any format's bytes: msgspec writes whole minutes, whatever the offset was.
# One of less than half a minute passes for UTC; no place on Earth has ever had such an offset.
OFFSET = re.compile(rb":\d\d(?:\.\d+)?[+-]\d\d:").search

_CONTAINERS = frozenset({dict, list, tuple})

# A path is a linked list of steps, so that walking costs no text: (parent path, step) or None at the root.
_Path = tuple[Any, object] | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What the bytes of a type can hold at all, so that most events need no look.

    Attributes:
        open: some part has no fixed shape (`Any`, a recursive class, a pydantic model), so it may nest without end.
        floats, dates, times: some part is a float, a datetime or a time of day; all true where `open` is.
    """

    open: bool = False
    floats: bool = False
    dates: bool = False
    times: bool = False

    def __or__(self, other: Shape) -> Shape:
        return Shape(
            self.open or other.open,
            self.floats or other.floats,
            self.dates or other.dates,
            self.times or other.times,
        )


OPEN = Shape(open=True, floats=True, dates=True, times=True)


def shape_of(event_type: Any) -> Shape:
    """What values of this type can hold, from its annotations.

    Raises:
        TypeError: when msgspec cannot carry the type, naming it.
        NameError: when an annotation cannot be resolved.
    """
    return _shape(inspect.type_info(event_type), {})


def direct_floats(event_type: Any) -> tuple[str, ...]:
    """The fields of a class that are floats and nothing else; none unless these are all the floats it can hold."""
    node = inspect.type_info(event_type)
    if not isinstance(node, inspect.StructType | inspect.DataclassType):
        return ()
    direct = [field for field in node.fields if isinstance(field.type, inspect.FloatType)]
    others = (_shape(field.type, {}) for field in node.fields if field not in direct)
    return () if any(shape.floats for shape in others) else tuple(field.name for field in direct)


def _shape(node: inspect.Type, known: dict[int, Shape]) -> Shape:
    match node:
        case inspect.AnyType() | inspect.RawType() | inspect.CustomType():
            return OPEN
        case inspect.FloatType():
            return Shape(floats=True)
        case inspect.DateTimeType():
            return Shape(dates=True)
        case inspect.TimeType():
            return Shape(times=True)
        case _:
            return _shape_of_parts(node, known)


def _shape_of_parts(node: inspect.Type, known: dict[int, Shape]) -> Shape:
    if id(node) not in known:
        known[id(node)] = OPEN  # stays so for whoever meets it again inside itself: it may nest without end
        known[id(node)] = reduce(or_, (_shape(part, known) for part in _parts(node)), Shape())
    return known[id(node)]


def _parts(node: inspect.Type) -> Iterator[inspect.Type]:
    match node:
        case inspect.UnionType():
            yield from node.types
        case inspect.TupleType():
            yield from node.item_types
        case inspect.CollectionType():
            yield node.item_type
        case inspect.Metadata():
            yield node.type
        case _:
            yield from (part for part in (getattr(node, "key_type", None), getattr(node, "value_type", None)) if part)
            yield from (field.type for field in getattr(node, "fields", ()))


def too_deep(data: object) -> bool:
    """Whether plain data (dicts, lists and tuples of scalars) nests deeper than `MAX_DEPTH`."""
    level: list[Any] = [data] if type(data) in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        if not level:
            return False
        # Level by level and not by recursion: one comprehension each, whatever the width.
        level = [
            child
            for one in level
            for child in (chain(one, one.values()) if type(one) is dict else one)
            if type(child) in _CONTAINERS
        ]
    return bool(level)


def misfit(data: object) -> str | None:
    """What in plain data has no faithful bytes, and where; None when all has.

    Looks for NaN, infinities, and datetimes or times whose UTC offset is not in whole minutes.
    """
    todo: list[tuple[object, _Path]] = [(data, None)]
    while todo:
        value, path = todo.pop()
        match value:
            case float() if not isfinite(value):
                return f"{value} is no finite number{_place(path)}"
            case datetime() | time() if _odd_offset(value):
                return f"{value} has a UTC offset that is not in whole minutes: convert it to UTC{_place(path)}"
            case dict():
                todo.extend((key, (path, key)) for key in value)
                todo.extend((item, (path, key)) for key, item in value.items())
            case list() | tuple():
                todo.extend((item, (path, index)) for index, item in enumerate(value))
            case _:
                pass
    return None


def _odd_offset(value: datetime | time) -> bool:
    offset = value.utcoffset()
    return offset is not None and (offset.seconds % 60 != 0 or offset.microseconds != 0)


def _place(path: _Path) -> str:
    """Where a path leads, in msgspec's own words, so that encoding and decoding speak alike."""
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append(f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r:.40}]")
    return f" - at `${''.join(reversed(steps))}`" if steps else ""


def culprit(value: object, encode: Callable[[Any], object]) -> str:
    """Where the smallest part is that `encode` refuses on its own; nothing when only the whole is refused."""
    path: _Path = None
    for _ in range(MAX_DEPTH):
        for step, part in _members(value):
            if _refuses(encode, part):
                value, path = part, (path, step)
                break
        else:
            break
    return _place(path)


def _members(value: Any) -> Iterator[tuple[object, object]]:
    kind = type(value)
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from enumerate(value)
    elif hasattr(kind, "__struct_fields__"):
        yield from ((name, getattr(value, name)) for name in kind.__struct_fields__)
    elif hasattr(kind, "__attrs_attrs__"):
        yield from ((field.name, getattr(value, field.name)) for field in kind.__attrs_attrs__)
    elif hasattr(kind, "__dataclass_fields__"):
        yield from ((name, getattr(value, name)) for name in kind.__dataclass_fields__ if hasattr(value, name))
    elif hasattr(kind, "__pydantic_fields__"):
        yield from vars(value).items()


def _refuses(encode: Callable[[Any], object], part: object) -> bool:
    try:
        encode(part)
    except Exception:  # noqa: BLE001 - the part is being asked whether it raises, for an error that is already known
        return True
    return False
