"""Dead letters: their ids, their written form, and which of them are asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

from ...delivery import DeadLetter
from ...envelope import Envelope
from ...event import Pattern, is_pattern
from ...transport import DeadQuery
from .line import Line
from .registry import Keys, Record
from .wire import digest, failure_of, salvaged, split

__all__ = ["fits", "letter_id", "letters_behind", "named", "place_of"]

_CHUNK = 200


def letter_id(text: bytes, number: int, topic: str) -> UUID:
    """A letter's id: it grows with the time of burial, and tells the letter, the subscription and the topic."""
    ms, n = int(text[:13]), int(text[13:])
    return UUID(int=ms << 80 | 7 << 76 | n << 64 | 2 << 62 | (number & 0x3FFFFF) << 40 | digest(topic))


def place_of(letter: UUID, number: int, topic: str) -> bytes | None:
    """The letter as this subscription at this topic calls it; None when it is another one's."""
    text = _text(letter)
    return text if letter_id(text, number, topic) == letter else None


def _text(letter: UUID) -> bytes:
    return b"%013d%04d" % (letter.int >> 80, letter.int >> 64 & 0xFFF)


async def letters_behind(
    line: Line, keys: Keys, record: Record, topic: str, after: UUID | None
) -> AsyncIterator[DeadLetter]:
    """The letters of one subscription at one topic, oldest burial first."""
    own = f"{keys.tag(topic)}:{record.number}"
    start = b"-" if after is None else b"[" + _text(after)
    while True:
        names = await line.one("ZRANGEBYLEX", f"{own}:g", start, "+", "LIMIT", 0, _CHUNK)
        if not names:
            return
        raws = await line.one("HMGET", f"{own}:l", *names)
        for text, raw in zip(names, raws, strict=True):
            if raw is not None and (after is None or letter_id(text, record.number, topic) > after):
                yield _letter(text, raw, record, topic)
        start = b"(" + names[-1]


def _letter(text: bytes, raw: bytes, record: Record, topic: str) -> DeadLetter:
    entry, name, key, packed, attempts, reason, failed = split(raw)
    failure = failure_of(failed)
    return DeadLetter(
        letter_id(text, record.number, topic),
        salvaged(topic, entry, name, key, packed),
        record.name,
        int(attempts),
        reason.decode("utf-8", "replace"),
        "" if failure is None else str(failure),
        datetime.fromtimestamp(int(text[:13]) / 1000, UTC),
        failure,
    )


def fits(letter: DeadLetter, query: DeadQuery) -> bool:
    """Whether the letter is one that is asked for."""
    envelope, failure = letter.envelope, letter.failure
    if query.ids is not None and letter.id not in query.ids and envelope.id not in query.ids:
        return False
    if (query.name is not None and not named(envelope, query.name)) or query.key not in (None, envelope.key):
        return False
    if query.error is not None:
        text = "" if failure is None else f"{failure.error}\n{failure.message}"
        if query.error.casefold() not in text.casefold():
            return False
    if query.reason is not None and query.reason.casefold() not in letter.reason.casefold():
        return False
    if query.since is not None and letter.buried_at < query.since:
        return False
    return query.before is None or letter.buried_at < query.before


def named(envelope: Envelope, name: str) -> bool:
    """Whether the event has this name, or one of this pattern."""
    return Pattern(name).matches(envelope.name) if is_pattern(name) else envelope.name == name
