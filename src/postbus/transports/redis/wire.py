"""An event's written form in a stream, and what becomes of entries that somebody else wrote.

An entry has the fields `n` (name), `k` (key, or empty), `e` (the rest, as a MessagePack array) and, if it is delayed,
`d` (milliseconds since 1970 when it is due).  Any other entry is a flat map of text by another producer.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import msgspec

from ...delivery import Failure
from ...envelope import Envelope, split_log
from ...errors import InvalidName
from ...event import key_text, valid_name

__all__ = [
    "Malformed",
    "Newer",
    "digest",
    "due_of",
    "envelope_of",
    "failure_of",
    "pack",
    "packed_failure",
    "pairs",
    "salvaged",
    "split",
    "words_of",
]

FORMAT = 1
FOREIGN = b"\0"
_MSGPACK = "application/msgpack"
# Beyond this no datetime exists.
_LAST_MICROS = 253_402_300_799_000_000
_DUE = re.compile(rb"\d{1,15}")


class Malformed(ValueError):
    """An entry that is no event; its text says why."""


class Newer(Malformed):
    """It may be one: it says that it is of a format that only a newer postbus knows."""


class _Packed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    mark: int
    id: bytes
    micros: int
    version: int
    format: str
    body: bytes
    expires: int | None = None
    headers: dict[str, str] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode
_failure = msgspec.msgpack.Decoder(Failure)


def pack(envelope: Envelope) -> bytes:
    """What stands in the field `e`."""
    return _encode(
        _Packed(
            FORMAT,
            envelope.id_bytes,
            envelope.micros,
            envelope.version,
            envelope.format,
            envelope.body,
            envelope.expires_micros,
            envelope.header_map,
        )
    )


def envelope_of(topic: str, entry: bytes, name: bytes, key: bytes, packed: bytes) -> Envelope:
    """Return the envelope of an entry.

    Raises:
        Malformed: when it is none.
    """
    if packed.startswith(FOREIGN):
        return _foreign(topic, entry, name, key, packed[1:])
    try:
        p = _decode(packed)
        text, key_of = name.decode(), key.decode() or None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        _refuse_newer(_mark(packed))
        raise Malformed(f"undecodable: the entry is no event: {error}") from error
    _refuse_newer(p.mark)
    if p.mark != FORMAT:
        raise Malformed(f"undecodable: the entry has the format {p.mark}, and this postbus knows {FORMAT}")
    if len(p.id) != 16 or not 0 <= p.micros <= _LAST_MICROS or not 0 <= (p.expires or 0) <= _LAST_MICROS:
        raise Malformed("undecodable: the entry is no event: its id or times are out of range")
    place, number = split_log(topic) if "#" in topic else (topic, None)
    return Envelope(p.id, text, place, key_of, p.micros, p.version, p.format, p.body, p.expires, p.headers, number)


def _mark(packed: bytes) -> object:
    """What stands first, in whatever array."""
    try:
        array = msgspec.msgpack.decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return array[0] if isinstance(array, list) and array else None


def _refuse_newer(mark: object) -> None:
    if isinstance(mark, int) and mark > FORMAT:
        raise Newer(f"undecodable: the entry has the format {mark}, and this postbus knows {FORMAT}: a newer one may")


def due_of(fields: Sequence[bytes]) -> int | None:
    """When a delayed entry is due, in ms since 1970."""
    return int(fields[7]) if len(fields) == 8 and fields[6] == b"d" and _DUE.fullmatch(fields[7]) else None


def _foreign(topic: str, entry: bytes, name: bytes, key: bytes, fields: bytes) -> Envelope:
    """A flat field map: `name` and `key` mean what they say, all fields together are the payload."""
    try:
        words = [word.decode() for word in split(fields)]
        place, number = split_log(topic)
        return Envelope(
            _foreign_id(topic, entry),
            valid_name(name.decode(), "event name"),
            place,
            key_text(key.decode() or None),
            _micros(entry),
            1,
            _MSGPACK,
            msgspec.msgpack.encode(dict(zip(words[::2], words[1::2], strict=True))),
            partition=number,
        )
    except (UnicodeDecodeError, InvalidName, ValueError) as error:
        raise Malformed(f"undecodable: the entry of another producer is no event: {error}") from error


def salvaged(topic: str, entry: bytes, name: bytes, key: bytes, packed: bytes) -> Envelope:
    """The envelope of an entry, or the nearest thing to it of a malformed one, for people to look at."""
    try:
        return envelope_of(topic, entry, name, key, packed)
    except Malformed:
        place, number = split_log(topic)
        return Envelope(
            _foreign_id(topic, entry),
            name.decode("utf-8", "replace"),
            place,
            key.decode("utf-8", "replace") or None,
            _micros(entry),
            0,
            "application/octet-stream",
            packed.removeprefix(FOREIGN),
            partition=number,
        )


def _foreign_id(topic: str, entry: bytes) -> bytes:
    """The same for all subscriptions, and each time."""
    ms, _, seq = entry.decode("ascii", "replace").partition("-")
    return uuid5(NAMESPACE_URL, f"postbus:{topic}/{ms.lstrip('0')}-{seq.lstrip('0') or '0'}").bytes


def _micros(entry: bytes) -> int:
    return min(int(entry.partition(b"-")[0]) * 1000, _LAST_MICROS)


def split(text: bytes) -> list[bytes]:
    """Several texts out of one, each behind its length."""
    words: list[bytes] = []
    place = 0
    while place < len(text):
        colon = text.index(b":", place)
        end = colon + 1 + int(text[place:colon])
        words.append(text[colon + 1 : end])
        place = end
    return words


def packed_failure(failure: Failure | None) -> bytes:
    """A failure as it is stored with a dead letter; empty for none."""
    return b"" if failure is None else msgspec.msgpack.encode(failure)


def failure_of(raw: bytes) -> Failure | None:
    """The failure that was stored."""
    try:
        return _failure.decode(raw) if raw else None
    except msgspec.MsgspecError:
        return None


def pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    """A flat reply as a dict."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def digest(text: str) -> int:
    """40 bits of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:5], "big")


def words_of(topic: str, fields: Sequence[bytes]) -> tuple[bytes, bytes, bytes]:
    """Name, key and envelope of an entry, as the scripts take them."""
    if fields[0] == b"n" and fields[2:5:2] == [b"k", b"e"]:
        return fields[1], fields[3], fields[5]
    known = pairs(fields)
    joined = b"".join(b"%d:%s" % (len(word), word) for word in fields)
    return known.get(b"name", split_log(topic)[0].encode()), known.get(b"key", b""), b"\0" + joined
