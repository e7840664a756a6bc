"""What is stored: events in their streams and in the stores of subscriptions, newest first, and once more for one."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from typing import NamedTuple

from ...envelope import Envelope, micros_of
from ...transport import EventQuery, StoredEvent
from .letters import named
from .line import Line, said
from .registry import Keys, Record, Registry
from .scripts import REFILL, STATES
from .wire import salvaged, split, words_of

__all__ = ["refill", "stored_events"]

# Entries of one command, and those of one script call, which does more with each.
_CHUNK, _AT_ONCE = 500, 200
# Of an index more at once, for its entries are short: a hundred thousand dead letters are looked through in a blink.
_INDEX = 5000
# Letters at once, and the digits with which both a letter and an entry begin: when it was.
_BURIED, _MS = 100, 13


class _Asked(NamedTuple):
    """What is asked for of one topic: behind the place `end`; a page is full without what is not newer than `floor`."""

    query: EventQuery
    limit: int
    end: tuple[bytes, str] | None
    topic: str = ""
    floor: bytes = b""

    def fits(self, entry: bytes) -> bool:
        return entry > self.floor and (self.end is None or (entry, self.topic) < self.end)


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
    """A page of events."""
    entry, _, topic = (after or "").partition("/")
    asked = _Asked(query, limit, (entry.encode(), topic) if after else None)
    topics = sorted({*registry.names, *(topic for r in registry.records.values() for topic in registry.topics(r))})
    found: list[_Found] = []
    for each in topics:
        found += await _of_topic(line, keys, registry, asked._replace(topic=each))
    found.sort(key=lambda one: (one.entry, one.topic), reverse=True)
    page = found[:limit]
    states = await _states(line, keys, registry, page)
    return [StoredEvent(envelope=one.envelope, cursor=one.cursor, states=states[n]) for n, one in enumerate(page)]


async def _of_topic(line: Line, keys: Keys, registry: Registry, asked: _Asked) -> list[_Found]:
    """At most `limit` of the stream, and as many of what subscriptions keep beside it."""
    topic = asked.topic
    found: dict[bytes, _Found] = {}
    last = b"+" if asked.end is None else _unpadded(asked.end[0])
    chunk = min(_CHUNK, asked.limit + 1) if asked.query == EventQuery() else _CHUNK
    while len(found) < asked.limit:
        entries = await line.one("XREVRANGE", keys.stream(topic), last, "-", "COUNT", chunk)
        for raw, fields in entries:
            entry = _padded(raw)
            one = _match(asked, entry, words_of(topic, fields))
            if one is not None:
                found[entry] = one
            if len(found) == asked.limit:
                break
        if len(entries) < chunk:
            break
        last = b"(" + entries[-1][0]
    if len(found) == asked.limit:
        asked = asked._replace(floor=min(found))
    return list({**await _beside(line, keys, registry, asked), **found}.values())


def _match(asked: _Asked, entry: bytes, words: Sequence[bytes]) -> _Found | None:
    if not asked.fits(entry):
        return None
    query, topic = asked.query, asked.topic
    envelope = salvaged(topic, entry, words[0], words[1], words[2])
    fits = (
        (query.id is None or envelope.id == query.id)
        and (query.name is None or named(envelope, query.name))
        and (query.key is None or envelope.key == query.key)
        and (query.correlation_id is None or envelope.correlation_id == query.correlation_id)
        and (query.since is None or envelope.micros >= micros_of(query.since))
        and (query.before is None or envelope.micros < micros_of(query.before))
    )
    return _Found(entry, topic, envelope) if fits else None


async def _beside(line: Line, keys: Keys, registry: Registry, asked: _Asked) -> dict[bytes, _Found]:
    """Of what subscriptions keep beside the stream, dead letters too, the newest behind the page before."""
    found: dict[bytes, _Found] = {}
    for record in registry.records.values():
        if asked.topic in registry.topics(record):
            own = f"{keys.tag(asked.topic)}:{record.number}"
            found |= await _of_index(line, own, "m", asked)
            found |= await _letters(line, own, asked)
    return found


async def _of_index(line: Line, own: str, index: str, asked: _Asked) -> dict[bytes, _Found]:
    """Of the index of what is kept ('m') or dead ('x'), all of which is looked at."""
    found: dict[bytes, _Found] = {}
    behind = asked
    while len(found) < asked.limit and (page := await _newest(line, f"{own}:{index}", behind)):
        names = page if index == "m" else await line.one("HMGET", f"{own}:x", *page)
        raws = await line.one("HMGET", f"{own}:{'b' if index == 'm' else 'l'}", *(name or b"" for name in names))
        for entry, raw in zip(page, raws, strict=True):
            words = split(raw) if raw else ()
            one = _match(asked, entry, words[-3:] if index == "m" else words[1:4]) if words else None
            if one is not None:
                found[entry] = one
        behind = behind._replace(end=(page[-1], asked.topic))
    return found


async def _letters(line: Line, own: str, asked: _Asked) -> dict[bytes, _Found]:
    """Dead letters.

    Nothing is buried before it was published: of a first page, from the last burial back, those buried before the
    oldest event that it needs are not looked at, however many there are.  An amended letter is newer than its burial.
    """
    if asked.end is not None or await line.one("HGET", f"{own}:c", "amended"):
        return await _of_index(line, own, "x", asked)
    found: dict[bytes, _Found] = {}
    last = b"+"
    while names := await line.one("ZREVRANGEBYLEX", f"{own}:g", last, "-", "LIMIT", 0, _BURIED):
        for raw in await line.one("HMGET", f"{own}:l", *names):
            entry, *words = split(raw)[:4] if raw else (b"",)
            one = _match(asked, entry, words)
            if one is not None:
                found[entry] = one
        if len(found) >= asked.limit:
            asked = asked._replace(floor=sorted(found)[-asked.limit])
        if names[-1][:_MS] < asked.floor[:_MS]:
            break
        last = b"(" + names[-1]
    return found


async def _newest(line: Line, index: str, asked: _Asked) -> list[bytes]:
    """The newest entries of an index that fit, newest first: all are looked at, a few of them at a time."""
    newest: list[bytes] = []
    cursor = b"0"
    while True:
        cursor, flat = await line.one("HSCAN", index, cursor, "COUNT", _INDEX)
        newest = nlargest(_CHUNK, {*newest, *(entry for entry in flat[::2] if asked.fits(entry))})
        if cursor == b"0":
            return newest


async def _states(line: Line, keys: Keys, registry: Registry, page: Sequence[_Found]) -> list[dict[str, str]]:
    states: list[dict[str, str]] = [{} for _ in page]
    for topic in {one.topic for one in page}:
        places = [n for n, one in enumerate(page) if one.topic == topic]
        records = [record for record in registry.records.values() if topic in registry.topics(record)]
        if not records:
            continue
        for start in range(0, len(places), _AT_ONCE):
            some = places[start : start + _AT_ONCE]
            entries = [page[n].entry for n in some]
            scripts = [(STATES, [keys.stream(topic)], [record.number, *entries]) for record in records]
            for record, reply in zip(records, await line.run_each(*scripts), strict=True):
                for n, state in zip(some, said(reply, line.door), strict=True):
                    if state:
                        states[n][record.name] = state.decode()
    return states


async def refill(line: Line, keys: Keys, registry: Registry, record: Record, since: float) -> int:
    """Give a subscription the stored entries published since then that it takes and does not hold."""
    count = 0
    for topic in registry.topics(record):
        start = b"-"
        while True:
            entries = await line.one("XRANGE", keys.stream(topic), start, "+", "COUNT", _AT_ONCE)
            chosen = [raw for raw, fields in entries if _wanted(record, topic, raw, fields, since)]
            if chosen:
                reply = await line.run(REFILL, [keys.stream(topic)], [record.number, *chosen])
                count += said(reply, line.door)
            if len(entries) < _AT_ONCE:
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
