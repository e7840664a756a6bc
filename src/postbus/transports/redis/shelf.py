"""What is stored: events in their streams and in the stores of subscriptions, newest first, and once more for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...envelope import Envelope
from ...transport import EventQuery, StoredEvent
from .letters import named
from .line import Line, said
from .registry import Keys, Record, Registry
from .scripts import REFILL, STATES
from .wire import pairs, salvaged, split, words_of

__all__ = ["refill", "stored_events"]

_CHUNK = 500


class _Asked(NamedTuple):
    """What is asked for: `end` is the place behind which the page begins."""

    query: EventQuery
    limit: int
    end: tuple[bytes, str] | None

    def behind(self, entry: bytes, topic: str) -> bool:
        return self.end is None or (entry, topic) < self.end


class _Found(NamedTuple):
    entry: bytes
    topic: str
    envelope: Envelope

    @property
    def cursor(self) -> str:
        return f"{self.entry.decode()}/{self.topic}"


async def stored_events(
    line: Line, keys: Keys, registry: Registry, query: EventQuery, *, limit: int, after: str | None
) -> list[StoredEvent]:
    """A page of events.  What subscriptions keep in their own stores is looked through as a whole."""
    entry, _, topic = (after or "").partition("/")
    asked = _Asked(query, limit, (entry.encode(), topic) if after else None)
    topics = sorted({*registry.names, *(topic for r in registry.records.values() for topic in registry.topics(r))})
    found: list[_Found] = []
    for each in topics:
        found += await _of_topic(line, keys, registry, each, asked)
    found.sort(key=lambda one: (one.entry, one.topic), reverse=True)
    page = found[:limit]
    states = await _states(line, keys, registry, page)
    return [StoredEvent(envelope=one.envelope, cursor=one.cursor, states=states[n]) for n, one in enumerate(page)]


async def _of_topic(line: Line, keys: Keys, registry: Registry, topic: str, asked: _Asked) -> list[_Found]:
    kept = await _kept(line, keys, registry, topic)
    found = {
        entry: one
        for entry, words in kept.items()
        if asked.behind(entry, topic) and (one := _match(topic, entry, words, asked.query)) is not None
    }
    last = b"+" if asked.end is None else _unpadded(asked.end[0])
    count = 0
    while count < asked.limit:
        entries = await line.one("XREVRANGE", keys.stream(topic), last, "-", "COUNT", _CHUNK)
        for raw, fields in entries:
            entry = _padded(raw)
            if entry in kept or not asked.behind(entry, topic):
                continue
            one = _match(topic, entry, words_of(topic, fields), asked.query)
            if one is not None:
                found[entry] = one
                count += 1
        if len(entries) < _CHUNK:
            break
        last = b"(" + entries[-1][0]
    return list(found.values())


def _match(topic: str, entry: bytes, words: Sequence[bytes], query: EventQuery) -> _Found | None:
    envelope = salvaged(topic, entry, words[0], words[1], words[2])
    fits = (
        (query.id is None or envelope.id == query.id)
        and (query.name is None or named(envelope, query.name))
        and (query.key is None or envelope.key == query.key)
        and (query.correlation_id is None or envelope.correlation_id == query.correlation_id)
    )
    return _Found(entry, topic, envelope) if fits else None


async def _kept(line: Line, keys: Keys, registry: Registry, topic: str) -> dict[bytes, list[bytes]]:
    """What subscriptions keep beside the stream, dead letters too: name, key, envelope by padded id."""
    kept: dict[bytes, list[bytes]] = {}
    for record in registry.records.values():
        if topic not in registry.topics(record):
            continue
        own = f"{keys.tag(topic)}:{record.number}"
        bodies, letters = await line.ask(("HGETALL", f"{own}:b"), ("HVALS", f"{own}:l"))
        for entry, raw in pairs(said(bodies, line.door)).items():
            kept[entry] = split(raw)
        for raw in said(letters, line.door):
            words = split(raw)
            kept[words[0]] = words[1:4]
    return kept


async def _states(line: Line, keys: Keys, registry: Registry, page: Sequence[_Found]) -> list[dict[str, str]]:
    states: list[dict[str, str]] = [{} for _ in page]
    for topic in {one.topic for one in page}:
        places = [n for n, one in enumerate(page) if one.topic == topic]
        records = [record for record in registry.records.values() if topic in registry.topics(record)]
        entries = [page[n].entry for n in places]
        scripts = [(STATES, [keys.stream(topic)], [record.number, *entries]) for record in records]
        if not scripts:
            continue
        for record, reply in zip(records, await line.run_each(*scripts), strict=True):
            for n, state in zip(places, said(reply, line.door), strict=True):
                if state:
                    states[n][record.name] = state.decode()
    return states


async def refill(line: Line, keys: Keys, registry: Registry, record: Record, since: float) -> int:
    """Give a subscription the stored entries published since then that it takes and does not hold."""
    count = 0
    for topic in registry.topics(record):
        start = b"-"
        while True:
            entries = await line.one("XRANGE", keys.stream(topic), start, "+", "COUNT", _CHUNK)
            chosen = [raw for raw, fields in entries if _wanted(record, topic, raw, fields, since)]
            if chosen:
                reply = await line.run(REFILL, [keys.stream(topic)], [record.number, *chosen])
                count += said(reply, line.door)
            if len(entries) < _CHUNK:
                break
            start = b"(" + entries[-1][0]
    return count


def _wanted(record: Record, topic: str, raw: bytes, fields: Sequence[bytes], since: float) -> bool:
    words = words_of(topic, fields)
    envelope = salvaged(topic, raw, *words)
    return envelope.micros >= since * 1e6 and record.spec.takes(envelope.name, topic)


def _padded(raw: bytes) -> bytes:
    ms, _, seq = raw.partition(b"-")
    return b"%013d-%06d" % (int(ms), int(seq))


def _unpadded(entry: bytes) -> bytes:
    ms, _, seq = entry.partition(b"-")
    return b"%d-%d" % (int(ms), int(seq))
