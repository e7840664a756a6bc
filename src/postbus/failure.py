"""An exception becomes text: bounded, redacted, with no frame kept alive."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable

from .delivery import Failure

__all__ = ["Redact", "describe", "one_line", "redacted"]

_MESSAGE = 1_000
_TRACEBACK = 4_000
# user:password@ of any URL, and the values of what is named like a secret.
_USERINFO = re.compile(r"(?<=://)[^/\s:@'\"]*:[^@\s'\"]+(?=@)")
_SECRET = re.compile(
    r"(?i)\b(password|passwd|secret|token|api_?key|authorization)(['\"]?\s*[=:]\s*)(['\"]?)[^\s'\"&,;)]+"
)

Redact = Callable[[str], str]


def redacted(text: str) -> str:
    """Return `text` without the passwords of URLs and the values of fields named like a secret."""
    return _SECRET.sub(r"\1\2\3***", _USERINFO.sub("***", text))


def describe(error: BaseException, redact: Redact = redacted) -> Failure:
    """Return what is worth keeping of an error.  Never raises: a `__str__` that fails is named instead."""
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    return Failure(name, _clip(redact(_text(error)), _MESSAGE), _clip_middle(redact(_formatted(error)), _TRACEBACK))


def one_line(text: str, width: int = 200) -> str:
    """Return the first line of `text`, printable and at most `width` long: for logs and tables."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return _clip("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line), width)


def _text(error: BaseException) -> str:
    try:
        return _encodable(str(error))
    except Exception as failed:  # noqa: BLE001 - the user's own __str__, which may raise anything
        return f"<{type(error).__name__}.__str__ raised {type(failed).__name__}>"


def _formatted(error: BaseException) -> str:
    try:
        return _encodable("".join(traceback.format_exception(error, limit=-30)))
    except Exception as failed:  # noqa: BLE001 - as above: formatting calls the user's code
        return f"<{type(error).__name__} could not be formatted: {type(failed).__name__}>"


def _encodable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def _clip_middle(text: str, length: int) -> str:
    """The head says what was called, the tail what was raised: the middle can go."""
    if len(text) <= length:
        return text
    half = (length - 7) // 2
    return f"{text[:half]}\n  ...\n{text[-half:]}"
