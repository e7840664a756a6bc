"""Links inside the documentation lead somewhere: to a file that is there, and a heading that is in it."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from .pages import line_of, prose

__all__ = ["anchors", "check_entry", "check_links"]

_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_SCHEME = re.compile(r"[a-z]+:")
_HEADING = re.compile(r"^#{1,6}[ ]+(?P<text>.+?)[ ]*$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```[ ]*$", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What the headings of a page can be linked by, as code hosts make them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.finditer(_FENCED.sub("", text)):
        bare = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["text"]).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", bare.lower()).replace(" ", "-")
        found.add(slug if not seen[slug] else f"{slug}-{seen[slug]}")
        seen[slug] += 1
    return found


def check_links(name: str, text: str, pages: Mapping[str, str], root: Path) -> Iterator[str]:
    """What is wrong with the links of the page `name`."""
    # Link texts may hold inline code, so only the targets are looked for where the prose is.
    for link in _LINK.finditer(_FENCED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)):
        target = link["target"]
        if _SCHEME.match(target) or not prose(text)[link.end() - 1].strip():
            continue
        file, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), file)) if file else name
        if not (root / path).exists():
            yield f"{line_of(text, link.start())}: links to {target}, and there is no {path}"
        elif anchor and anchor not in anchors(pages.get(path, "")):
            yield f"{line_of(text, link.start())}: links to {target}, and {path} has no heading of that name"


def check_entry(pages: Mapping[str, str]) -> Iterator[str]:
    """Which pages of docs/ README.md does not link to: nobody would find them."""
    for name in pages:
        if name.startswith("docs/") and f"({name}" not in pages["README.md"]:
            yield f"1: links to every page but {name}"
