"""An event row becomes an envelope, and back.  Anybody may have written rows: what is no envelope is told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from ...delivery import Failure
from ...envelope import Envelope, split_log

__all__ = [
    "COLUMNS",
    "Broken",
    "Malformed",
    "envelope_of",
    "failure_of",
    "headers_text",
    "lenient",
    "packed",
    "salvaged",
]

# In the order of `envelope_of`'s row.
COLUMNS = "id, name, topic, key, micros, version, format, body, expires, headers"

_HEADERS = msgspec.json.Decoder(dict[str, str])
_FAILURE = msgspec.json.Decoder(Failure)
_encode = msgspec.json.encode
# Beyond this no datetime exists.
_LAST_MICROS = 253_402_300_799_000_000


class Malformed(ValueError):
    """A row that is no event; its text says why."""


class Broken(bytes):
    """Text of a row that is not UTF-8."""


def lenient(raw: bytes) -> str | Broken:
    """A text factory that does not raise: what it could not decode fails its type check instead."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return Broken(raw)


def headers_text(headers: dict[str, str] | None) -> str | None:
    """Headers as they are stored."""
    return _encode(headers).decode() if headers else None


def envelope_of(row: Sequence[Any]) -> Envelope:
    """Return the envelope of a row of `COLUMNS`.

    Raises:
        Malformed: when a column is of the wrong type.
    """
    id_, name, topic, key, micros, version, format_, body, expires, headers = row
    if (
        type(id_) is bytes
        and len(id_) == 16
        and type(name) is str
        and type(topic) is str
        and (key is None or type(key) is str)
        and type(micros) is int
        and 0 <= micros <= _LAST_MICROS
        and type(version) is int
        and type(format_) is str
        and type(body) is bytes
        and (expires is None or (type(expires) is int and 0 <= expires <= _LAST_MICROS))
    ):
        topic, partition = split_log(topic)
        if headers is None:
            return Envelope(id_, name, topic, key, micros, version, format_, body, expires, None, partition)
        try:
            known = _HEADERS.decode(headers)
            return Envelope(id_, name, topic, key, micros, version, format_, body, expires, known, partition)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise Malformed(f"undecodable: the headers are no object of text: {error}") from error
    wrong = ", ".join(
        f"{column} is {_shown(value)}"
        for column, value in zip(COLUMNS.split(", "), row, strict=True)
        if column != "body"
    )
    raise Malformed(f"undecodable: the row is no event: {wrong}, body is {type(body).__name__}"[:500])


def salvaged(row: Sequence[Any]) -> Envelope:
    """Return the envelope of a row, or the nearest thing to it of a malformed one, for people to look at."""
    try:
        return envelope_of(row)
    except Malformed:
        id_, name, topic, key, micros, version, format_, body, expires, _ = row
        return Envelope(
            id_ if type(id_) is bytes and len(id_) == 16 else hashlib.sha256(repr(id_).encode()).digest()[:16],
            _text(name),
            split_log(_text(topic))[0],
            None if key is None else _text(key),
            micros if type(micros) is int and 0 <= micros <= _LAST_MICROS else 0,
            version if type(version) is int else 0,
            _text(format_),
            body if type(body) is bytes else _text(body).encode("utf-8", "backslashreplace"),
            expires if type(expires) is int and 0 <= expires <= _LAST_MICROS else None,
            partition=split_log(_text(topic))[1],
        )


def packed(failure: Failure | None) -> bytes | None:
    """A failure as it travels with a delivery."""
    return None if failure is None else _encode(failure)


def failure_of(raw: object) -> Failure | None:
    """The failure that travelled with a delivery; None when there was none, or somebody wrote nonsense."""
    if not isinstance(raw, bytes):
        return None
    try:
        return _FAILURE.decode(raw)
    except msgspec.MsgspecError:
        return None


def _text(value: object) -> str:
    if type(value) is str:
        return value
    return bytes(value).decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)


def _shown(value: object) -> str:
    if isinstance(value, Broken):
        return "not UTF-8"
    return repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
