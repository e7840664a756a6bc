"""Text from elsewhere, made safe to show: a name, payload or error must not steer the terminal that shows it."""

from __future__ import annotations

__all__ = ["one_line", "printable"]


def printable(text: str, keep: str = "") -> str:
    """Return `text` with everything that is not printable spelled out in hexadecimal; `keep` names exceptions.

    Escape sequences, control characters and those that turn the direction of writing are all not printable.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _spelled(c) for c in text)


def one_line(text: str, width: int) -> str:
    """Return `text` as one printable line of at most `width` characters."""
    line = printable(" ".join(text.split()) if "\n" in text else text)
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def _spelled(char: str) -> str:
    code = ord(char)
    if char in "\t\n\r":
        return repr(char)[1:-1]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
