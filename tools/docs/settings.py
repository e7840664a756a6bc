"""Tables of what can be set and counted, read from the code that heeds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import postbus.errors
from postbus import Bus, Retry, Router
from postbus.environment import VARIABLES
from postbus.observe import Counters
from postbus.subscription import read_subscriber

from .docstrings import read

__all__ = ["bus_settings", "counters", "errors", "retry", "subscriber_options"]


def bus_settings() -> str:
    """The arguments of `Bus`."""
    meanings = read(Bus).sections["Args"]
    rows = [
        (
            f"`{name}`",
            _default(parameter.default),
            f"`POSTBUS_{name.upper()}`" if name in VARIABLES else "",
            meanings[name],
        )
        for name, parameter in inspect.signature(Bus).parameters.items()
    ]
    return _table(("argument", "default", "variable", "meaning"), rows)


def subscriber_options() -> str:
    """The options of `@bus.subscriber`."""
    meanings = read(Router.subscriber).sections["Args"]
    return _table(("option", "default", "meaning"), _keywords(read_subscriber, meanings))


def retry() -> str:
    """The fields of `Retry`."""
    return _table(("field", "default", "meaning"), _keywords(Retry, read(Retry).sections["Attributes"]))


def counters() -> str:
    """What `bus.counters` counts."""
    rows = []
    for names, meaning in read(Counters).sections["Attributes"].items():
        rows.append((", ".join(f"`{name.strip()}`" for name in names.split(",")), meaning))
    return _table(("counter", "what it counts"), rows)


def errors() -> str:
    """The errors of postbus, and what each means."""
    kinds = [getattr(postbus.errors, name) for name in postbus.errors.__all__]
    rows = [
        (f"`{kind.__name__}`", f"`{kind.__mro__[1].__name__}`", " ".join(read(kind).prose.split()))
        for kind in sorted(kinds, key=_line)
    ]
    return _table(("error", "is a", "meaning"), rows)


def _line(kind: type[Any]) -> int:
    return inspect.getsourcelines(kind)[1]


def _keywords(fn: Callable[..., Any], meanings: dict[str, str]) -> Iterable[tuple[str, str, str]]:
    for name, parameter in inspect.signature(fn).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            yield f"`{name}`", _default(parameter.default), meanings[name]


def _default(value: object) -> str:
    match value:
        case inspect.Parameter.empty:
            return ""
        case timedelta():
            return f"`{value.total_seconds():g}`"
        case float() | int() if not isinstance(value, bool):
            return f"`{value:g}`" if value < 1_000_000 else f"`{value:_}`"
        case str():
            return f'`"{value}"`'
        case _:
            return f"`{value!r}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
