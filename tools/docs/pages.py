"""Which pages there are, and where the code stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Fence", "fences", "line_of", "pages_of", "prose"]

_FENCE = re.compile(r"^```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`")


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block.

    Attributes:
        language: what stands behind the opening fence; '' for none.
        code: the lines between the fences.
        start, end: where its text begins and ends in the page, fences included.
    """

    language: str
    code: str
    start: int
    end: int


def pages_of(root: Path) -> list[Path]:
    """README, CONTRIBUTING and everything in docs/, as far as they are there."""
    named = [root / name for name in ("README.md", "CONTRIBUTING.md")]
    return [path for path in (*named, *sorted((root / "docs").rglob("*.md"))) if path.exists()]


def fences(text: str) -> Iterator[Fence]:
    """The fenced blocks of a page."""
    for found in _FENCE.finditer(text):
        yield Fence(found["language"], found["code"], found.start(), found.end())


def prose(text: str) -> str:
    """The page with fenced blocks and inline code blanked out, so that places stay the same."""
    for pattern in (_FENCE, _INLINE):
        text = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text


def line_of(text: str, place: int) -> int:
    """The line number of a place in a page."""
    return text.count("\n", 0, place) + 1
