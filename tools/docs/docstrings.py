"""Docstrings as Markdown: paragraphs stay, the sections `Args`, `Attributes` and `Raises` become lists."""

from __future__ import annotations

import inspect
import re
import textwrap
from dataclasses import dataclass, field

__all__ = ["Docstring", "as_markdown", "read"]

_SECTION = re.compile(r"^(?P<name>Args|Attributes|Raises):$")
_ENTRY = re.compile(r"^(?P<names>\w[\w, ]*): (?P<text>.*)$")


@dataclass(slots=True)
class Docstring:
    """What one says: prose, and by section what each name means."""

    prose: str = ""
    sections: dict[str, dict[str, str]] = field(default_factory=dict)


def read(thing: object) -> Docstring:
    """Read the docstring of a class or function."""
    found = Docstring()
    prose: list[str] = []
    section: dict[str, str] | None = None
    names = ""
    for line in (inspect.getdoc(thing) or "").splitlines():
        head = _SECTION.match(line)
        if head:
            section = found.sections.setdefault(head["name"], {})
        elif section is None or (line and not line.startswith(" ")):
            section = None
            prose.append(line)
        elif entry := _ENTRY.match(line.removeprefix("    ")):
            names = entry["names"]
            section[names] = entry["text"]
        elif line.strip():
            section[names] += " " + line.strip()
    found.prose = "\n".join(prose).strip()
    return found


def as_markdown(thing: object) -> str:
    """The whole docstring."""
    docstring = read(thing)
    parts = [_prose(docstring.prose)] if docstring.prose else []
    for name, entries in docstring.sections.items():
        if name == "Raises":
            parts += [f"Raises {_codes(names)}: {text}" for names, text in entries.items()]
        else:
            parts.append("\n".join(f"- {_codes(names)}: {text}" for names, text in entries.items()))
    return "\n\n".join(parts)


def _prose(text: str) -> str:
    """A paragraph a line; what is indented stays as it is, as code."""
    paragraphs = []
    for paragraph in re.split(r"\n{2,}", text):
        if paragraph.startswith("    "):
            paragraphs.append(f"```text\n{textwrap.dedent(paragraph)}\n```")
        else:
            paragraphs.append(" ".join(paragraph.split()))
    return "\n\n".join(paragraphs)


def _codes(names: str) -> str:
    return ", ".join(f"`{name.strip()}`" for name in names.split(","))
