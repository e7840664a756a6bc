"""Python in a page is a file of examples/, or a region of one: what a reader copies is what runs in CI.

A page names the source in a comment above the fence: `<!-- examples/shop.py -->`, or with `#notify` behind the file for
the lines between `# --8<-- [start:notify]` and `# --8<-- [end:notify]`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from .pages import Fence, fences, line_of

__all__ = ["check_snippets", "region", "with_snippets"]

_SOURCE = re.compile(r"<!-- (?P<file>examples/[\w/.-]+)(?:#(?P<region>[\w-]+))? -->\n\Z")
_MARK = re.compile(r"^[ ]*# --8<-- \[(?P<kind>start|end):(?P<name>[\w-]+)\]\n", re.MULTILINE)
# What only the test of an example needs is not shown.
_HIDDEN = re.compile(r"\n+# Output:\n.*\Z", re.DOTALL)


class Missing(Exception):
    """A snippet's source is not there."""


def region(root: Path, file: str, name: str | None) -> str:
    """The lines of an example, or of one of its regions.

    Raises:
        Missing: when there is no such file or region.
    """
    path = root / file
    if not path.is_file():
        raise Missing(f"there is no {file}")
    text = path.read_text("utf-8")
    if name is not None:
        marks = {(mark["kind"], mark["name"]): mark for mark in _MARK.finditer(text)}
        try:
            text = text[marks["start", name].end() : marks["end", name].start()]
        except KeyError:
            raise Missing(f"{file} has no region {name!r}") from None
    text = textwrap.dedent(_MARK.sub("", _HIDDEN.sub("\n", text)))
    return text.strip("\n") + "\n"


def check_snippets(text: str, root: Path) -> Iterator[str]:
    """What is wrong with the Python of a page."""
    for fence in fences(_without_generated(text)):
        if fence.language not in ("python", "py", "pycon"):
            continue
        line = line_of(text, fence.start)
        source = _SOURCE.search(text, 0, fence.start)
        if source is None:
            yield f"{line}: a Python block without its source: put `<!-- examples/... -->` on the line above"
            continue
        try:
            if region(root, source["file"], source["region"]) != fence.code:
                yield f"{line}: differs from {source['file']}"
        except Missing as error:
            yield f"{line}: {error}"


def with_snippets(text: str, root: Path) -> str:
    """The page with every snippet as its source has it; what is missing is left to the check."""
    for fence in reversed(list(fences(text))):
        source = _SOURCE.search(text, 0, fence.start)
        if source is not None:
            text = _replaced(text, fence, source, root)
    return text


def _replaced(text: str, fence: Fence, source: re.Match[str], root: Path) -> str:
    try:
        code = region(root, source["file"], source["region"])
    except Missing:
        return text
    return f"{text[: fence.start]}```{fence.language}\n{code}```{text[fence.end :]}"


def _without_generated(text: str) -> str:
    """Generated parts show signatures, which are nobody's example."""
    return re.sub(
        r"^<!-- generated: .*?^<!-- /generated -->",
        lambda found: re.sub(r"[^\n]", " ", found[0]),
        text,
        flags=re.MULTILINE | re.DOTALL,
    )
