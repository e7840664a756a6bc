"""Retries: what a subscription keeps until it is due again, made due at once or let go of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from ...retrying import Retrying
from .line import Line, said
from .registry import Keys, Record, Registry
from .scripts import HASTEN, RETRYING
from .wire import salvaged

__all__ = ["moved", "retries_of"]

# Places that one script call moves: the server serves others too.
_AT_ONCE = 200


class _Spot(NamedTuple):
    """Where a retry is among all of its subscription; its text is the retry's place."""

    due: int
    entry: str
    topic: str

    def __str__(self) -> str:
        return f"{self.due}/{self.entry}/{self.topic}"

    @classmethod
    def parse(cls, place: str) -> _Spot:
        due, entry, topic = place.split("/", 2)
        return cls(int(due), entry, topic)


async def retries_of(
    line: Line, keys: Keys, registry: Registry, record: Record, *, limit: int, after: str | None
) -> list[Retrying]:
    """What waits for another attempt behind `after`, the soonest first."""
    behind = _Spot(0, "", "") if after is None else _Spot.parse(after)
    # One more: at the very place behind which the page begins another topic may have one, too.
    args = [record.number, behind.due, behind.entry, limit + 1]
    topics = registry.topics(record)
    replies = await line.run_each(*((RETRYING, [keys.stream(topic)], args) for topic in topics)) if topics else []
    found: list[tuple[_Spot, Retrying]] = []
    for topic, reply in zip(topics, replies, strict=True):
        words = said(reply, line.door)
        found += [_retry(record, topic, *words[n : n + 6]) for n in range(0, len(words), 6)]
    page = sorted((pair for pair in found if pair[0] > behind), key=lambda pair: pair[0])
    return [one for _, one in page[:limit]]


def _retry(record: Record, topic: str, due: bytes, entry: bytes, attempt: int, *words: bytes) -> tuple[_Spot, Retrying]:
    spot = _Spot(int(due), entry.decode(), topic)
    return spot, Retrying(
        place=str(spot),
        envelope=salvaged(topic, entry, *words),
        subscription=record.name,
        attempt=attempt,
        due_at=datetime.fromtimestamp(spot.due / 1000, UTC),
    )


async def moved(line: Line, keys: Keys, record: Record, what: str, places: Sequence[str]) -> int:
    """Make these due now ('run'), or let go of them ('discard'); return how many."""
    count = 0
    by_topic: dict[str, list[str]] = {}
    for spot in map(_Spot.parse, dict.fromkeys(places)):
        by_topic.setdefault(spot.topic, []).append(spot.entry)
    for topic, entries in by_topic.items():
        for start in range(0, len(entries), _AT_ONCE):
            args = [record.number, what, *entries[start : start + _AT_ONCE]]
            count += said(await line.run(HASTEN, [keys.stream(topic)], args), line.door)
    return count
