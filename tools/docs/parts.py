"""The generated parts of pages: by name, how they are made.

They stand between `<!-- generated: NAME -->` and `<!-- /generated -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from .api import api
from .cli import cli
from .pages import line_of
from .settings import bus_settings, counters, errors, retry, subscriber_options

__all__ = ["PARTS", "check_parts", "with_parts"]

Make = Callable[[], str]

PARTS: Mapping[str, Make] = MappingProxyType(
    {
        "api": api,
        "bus settings": bus_settings,
        "cli": cli,
        "counters": counters,
        "errors": errors,
        "retry": retry,
        "subscriber options": subscriber_options,
    }
)

_PART = re.compile(
    r"^<!-- generated: (?P<name>[\w ]+) -->\n(?P<body>.*?)^<!-- /generated -->$", re.MULTILINE | re.DOTALL
)


def check_parts(text: str, parts: Mapping[str, Make]) -> Iterator[str]:
    """Which generated parts of a page are stale."""
    for part in _PART.finditer(text):
        make = parts.get(part["name"])
        line = line_of(text, part.start())
        if make is None:
            yield f"{line}: nothing generates {part['name']!r}: expected one of {', '.join(parts)}"
        elif _body(make) != part["body"]:
            yield f"{line}: the generated part {part['name']!r} is stale"


def with_parts(text: str, parts: Mapping[str, Make]) -> str:
    """The page with its generated parts made anew."""

    def made(part: re.Match[str]) -> str:
        make = parts.get(part["name"])
        return part[0] if make is None else f"<!-- generated: {part['name']} -->\n{_body(make)}<!-- /generated -->"

    return _PART.sub(made, text)


def _body(make: Make) -> str:
    return f"\n{make().strip()}\n\n"
