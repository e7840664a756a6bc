"""One request as a page sees it: who asks, for what, and how links are written for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID

from starlette.requests import Request

from ..bus import Bus
from ..event import Pattern, is_pattern, key_text, valid_name
from .access import Rights
from .desk import Desk
from .pulse import Snapshot

__all__ = ["NoSuchPage", "Span", "Visit", "uuid_of"]

# Longer than any name or key, shorter than what could hurt.
_LONGEST = 300
_PAGE, _MOST = 50, 200
# Seconds; whoever asks for more asks for all.
_EVER = 100 * 365 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A span of time before now, in seconds; None where it has no end on that side."""

    newer: int | None = None
    older: int | None = None

    def __bool__(self) -> bool:
        return self.newer is not None or self.older is not None

    @property
    def query(self) -> dict[str, datetime]:
        """As queries have it: since and before."""
        now = datetime.now(UTC)
        given = {"since": self.newer, "before": self.older}
        return {name: now - timedelta(seconds=ago) for name, ago in given.items() if ago is not None}

    @property
    def fields(self) -> dict[str, str]:
        """As parameters."""
        return {name: str(ago) for name, ago in (("within", self.newer), ("until", self.older)) if ago is not None}

    @property
    def words(self) -> list[str]:
        """As options of a command."""
        given = (("--newer-than", self.newer), ("--older-than", self.older))
        return [word for name, ago in given if ago is not None for word in (name, f"{ago}s")]


class NoSuchPage(Exception):
    """There is nothing of this name or id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request for one page."""

    desk: Desk
    request: Request
    rights: Rights
    snapshot: Snapshot
    given: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def bus(self) -> Bus:
        """What is shown."""
        return self.desk.bus

    def path(self, name: str, default: str = "") -> str:
        """A part of the address."""
        return str(self.request.path_params.get(name, default))

    def url(self, path: str, /, **query: Any) -> str:
        """An address of this dashboard, wherever it is mounted."""
        given = {key: str(value) for key, value in query.items() if value not in (None, "")}
        root = self.request.scope.get("root_path", "").rstrip("/")
        safe = quote(path, safe="/:@")
        return f"{root}{safe}?{urlencode(given)}" if given else f"{root}{safe}"

    def here(self, **changes: Any) -> str:
        """This address with other parameters."""
        kept = {key: value for key, value in self.request.query_params.items() if key != "live"}
        return self.url(self.local_path, **{**kept, **changes})

    @property
    def local_path(self) -> str:
        """The address without where the dashboard is mounted."""
        root = self.request.scope.get("root_path", "").rstrip("/")
        return str(self.request.scope["path"]).removeprefix(root) or "/"

    @property
    def signature(self) -> str:
        """Who this is, in the trail of actions."""
        return f"{self.rights.who} (dashboard)"

    # -- parameters, which anybody may have written

    def text(self, name: str, default: str = "") -> str:
        """One parameter: printable, and not too long."""
        value = next(iter(self.many(name)), default)
        return "".join(c for c in value[:_LONGEST].strip() if c.isprintable())

    def many(self, name: str) -> Sequence[str]:
        """All values of one parameter: of the form that was sent, else of the address."""
        return self.given[name] if name in self.given else self.request.query_params.getlist(name)

    def number(self, name: str, default: int, *, least: int = 0, most: int = _MOST) -> int:
        """One whole number, brought into its bounds."""
        text = self.text(name)
        return min(most, max(least, int(text))) if text.isascii() and text.isdigit() and len(text) < 10 else default

    @property
    def span(self) -> Span:
        """No longer ago than `within`, and no later than `until` seconds ago."""
        newer, older = (self.number(name, 0, most=_EVER) or None for name in ("within", "until"))
        return Span(newer=newer, older=older)

    @property
    def limit(self) -> int:
        """How many rows a page has."""
        return self.number("limit", _PAGE, least=1)

    @property
    def cursor(self) -> str | None:
        """Behind what a page of events begins: the transports' own words, and what none could have written is none."""
        text = self.text("after")
        return text if text and all(c.isalnum() or c in "-_:./" for c in text) else None

    def id(self, name: str) -> UUID | None:
        """One id, if it is one."""
        return uuid_of(self.text(name))

    def event_name(self, name: str) -> str | None:
        """An event's name or a pattern.

        Raises:
            InvalidName: when it is neither.
        """
        text = self.text(name)
        if not text:
            return None
        return Pattern(text).text if is_pattern(text) else valid_name(text, "event name")

    def key(self, name: str) -> str | None:
        """An event's key.

        Raises:
            InvalidName: when it cannot be one.
        """
        return key_text(self.text(name)) if self.text(name) else None


def uuid_of(text: str) -> UUID | None:
    """The id that is written there, or None."""
    try:
        return UUID(text.strip())
    except ValueError:
        return None
