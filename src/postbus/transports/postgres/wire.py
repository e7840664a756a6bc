"""An event row becomes an envelope; a failure becomes JSON.  Texts lose what PostgreSQL cannot store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ...delivery import Failure
from ...envelope import Envelope, split_log

__all__ = ["COLUMNS", "Malformed", "array", "envelope_of", "failure_of", "packed", "salvaged", "storable"]

# In the order of `envelope_of`'s row.
COLUMNS = "uuid_send(e.id), e.name, e.topic, e.key, e.micros, e.version, e.format, e.body, e.expires, e.headers::text"

_HEADERS = msgspec.json.Decoder(dict[str, str])
_FAILURE = msgspec.json.Decoder(Failure)
# Beyond this no datetime exists.
_LAST_MICROS = 253_402_300_799_000_000


class Malformed(ValueError):
    """A row that is no event; its text says why.  The columns' types leave little to be wrong."""


def envelope_of(row: Sequence[Any]) -> Envelope:
    """Return the envelope of a row of `COLUMNS`.

    Raises:
        Malformed: when somebody wrote what is no event.
    """
    id_, name, topic, key, micros, version, format_, body, expires, headers = row
    if not 0 <= micros <= _LAST_MICROS or not 0 <= (expires or 0) <= _LAST_MICROS:
        raise Malformed(f"undecodable: the row is no event: micros is {micros}, expires is {expires}")
    topic, partition = split_log(topic)
    if headers is None:
        return Envelope(id_, name, topic, key, micros, version, format_, body, expires, None, partition)
    try:
        known = _HEADERS.decode(headers)
        return Envelope(id_, name, topic, key, micros, version, format_, body, expires, known, partition)
    except msgspec.MsgspecError as error:
        raise Malformed(f"undecodable: the headers are no object of text: {error}"[:500]) from error


def salvaged(row: Sequence[Any]) -> Envelope:
    """Return the envelope of a row, or the nearest thing to it of a malformed one, for people to look at."""
    try:
        return envelope_of(row)
    except Malformed:
        id_, name, topic, key, micros, version, format_, body, *_ = row
        known = micros if 0 <= micros <= _LAST_MICROS else 0
        topic, partition = split_log(topic)
        return Envelope(id_, name, topic, key, known, version, format_, body, partition=partition)


def array(values: Iterable[int | str]) -> str:
    """An array of numbers or of hexadecimal digits, as text: client libraries take long over lists."""
    return f"{{{','.join(map(str, values))}}}"


def packed(failure: Failure | None) -> str | None:
    """A failure as it travels with a delivery."""
    if failure is None:
        return None
    parts = Failure(storable(failure.error), storable(failure.message), storable(failure.traceback))
    return msgspec.json.encode(parts).decode()


def failure_of(text: str | None) -> Failure | None:
    """The failure that a row holds; None when there is none, or somebody wrote nonsense."""
    if text is None:
        return None
    try:
        return _FAILURE.decode(text)
    except msgspec.MsgspecError:
        return None


def storable(text: str) -> str:
    """Text without zero characters and lone surrogates."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
