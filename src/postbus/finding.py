"""One thing that was looked at, and how it stands.  Who looks is `doctor`, and each transport at its own server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

__all__ = ["Examinable", "Finding", "Level"]

Level: TypeAlias = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: 'ok', 'note' (worth knowing), 'warning' (may lose or delay events) or 'error' (does).
        what: what was looked at, in a word or two.
        text: what was found.
        advice: the next step, where there is one.
    """

    level: Level
    what: str
    text: str
    advice: str = ""


@runtime_checkable
class Examinable(Protocol):
    """A transport that knows more about its server than the contract says."""

    async def examine(self) -> Sequence[Finding]:
        """How each setting and fact of the server stands that bears on a promise.  Changes nothing.

        What this user may not look at is a note, never an error of the call.
        """
        ...
