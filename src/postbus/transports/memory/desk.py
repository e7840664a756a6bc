"""What can be seen and mended in a memory store: figures, pages, replay, seek.  Takes no lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from heapq import nlargest
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from msgspec.structs import replace

from ...delivery import DeadLetter, Delivery
from ...envelope import Envelope, micros_of
from ...event import Pattern, is_pattern
from ...retrying import Retrying
from ...transport import DeadQuery, EventQuery, StoredEvent, SubscriptionStats
from .queue import Queue
from .store import Dead, Held, Store

__all__ = [
    "abandon",
    "amend_letter",
    "dead_page",
    "discard_letters",
    "event_page",
    "hasten",
    "replay_letters",
    "retries_of",
    "seek_events",
    "stats_of",
]

# How a delivery stands, as `StoredEvent.states` says it.
_PUBLIC = {"parked": "waiting"}


def stats_of(store: Store, queue: Queue, workers: int) -> SubscriptionStats:
    """How one subscription stands now."""
    now = store.refresh(queue)
    states: Counter[str] = Counter()
    next_due = oldest = float("inf")
    for state, item, due in queue.standing(now):
        states[state] += 1
        if state in ("scheduled", "retrying"):
            next_due = min(next_due, due)
        else:
            oldest = min(oldest, item.envelope.micros)
    return SubscriptionStats(
        name=queue.name,
        backlog=states["ready"] + states["waiting"],
        in_flight=states["running"],
        scheduled=states["scheduled"],
        retrying=states["retrying"],
        dead=sum(dead.queue is queue for dead in store.dead.values()),
        oldest_age=None if oldest == float("inf") else max(0.0, now - oldest / 1e6),
        next_due=None if next_due == float("inf") else max(0.0, next_due - now),
        parked=0 if queue.keys is None else queue.keys.parked,
        parked_events=states["parked"],
        workers=workers,
        paused=queue.paused,
        waiting=states["waiting"],
    )


def retries_of(store: Store, queue: Queue, limit: int, after: str | None) -> Sequence[Retrying]:
    """What waits for another attempt behind `after`, the soonest first."""
    store.refresh(queue)
    found = [(f"{due!r}/{one.envelope.id_bytes.hex()}", due, one) for due, one in queue.retrying()]
    behind = (float("-inf"), "") if after is None else _due(after)
    page = sorted((one for one in found if _due(one[0]) > behind), key=lambda one: _due(one[0]))[:limit]
    return [
        Retrying(
            place=place,
            envelope=one.envelope,
            subscription=queue.name,
            attempt=one.attempt,
            due_at=datetime.fromtimestamp(due, UTC),
            event=one.event,
        )
        for place, due, one in page
    ]


def _due(place: str) -> tuple[float, str]:
    due, _, event_id = place.partition("/")
    return float(due), event_id


def hasten(store: Store, queue: Queue, places: Sequence[str]) -> int:
    """Make these due now."""
    chosen = _retries(store, queue, places)
    for delivery in chosen:
        queue.back(delivery)
    return len(chosen)


def abandon(store: Store, queue: Queue, places: Sequence[str]) -> int:
    """Let go of these for good."""
    chosen = _retries(store, queue, places)
    for delivery in chosen:
        queue.done(delivery)
    store.unfinished -= len(chosen)
    return len(chosen)


def _retries(store: Store, queue: Queue, places: Sequence[str]) -> list[Delivery]:
    store.refresh(queue)
    return queue.take_retries({bytes.fromhex(_due(place)[1]) for place in places})


def replay_letters(store: Store, queue: Queue, ids: Sequence[UUID]) -> int:
    """Make dead letters ready again, with no attempt spent."""
    letters = _take_out(store, queue, ids)
    for letter in letters:
        # Any fence but 0: it has been out before, so it comes before what has not.
        queue.put(Delivery(letter.envelope, queue.name, 1, 1, "", None, event=letter.event))
    store.unfinished += len(letters)
    _unpark(queue, letters)
    return len(letters)


def discard_letters(store: Store, queue: Queue, ids: Sequence[UUID]) -> int:
    """Delete dead letters."""
    letters = _take_out(store, queue, ids)
    if queue.keys is not None:
        for letter in letters:
            queue.keys.forget(letter.envelope)
    _unpark(queue, letters)
    return len(letters)


def amend_letter(store: Store, queue: Queue, letter_id: UUID, envelope: Envelope) -> bool:
    """Let a dead letter hold another event."""
    dead = store.dead.get(letter_id)
    if dead is None or dead.queue is not queue:
        return False
    if queue.keys is not None:
        queue.keys.replace(dead.letter.envelope, envelope)
    store.dead[letter_id] = dead._replace(letter=replace(dead.letter, envelope=envelope, event=None))
    return True


def _take_out(store: Store, queue: Queue, ids: Sequence[UUID]) -> list[DeadLetter]:
    chosen = [i for i in dict.fromkeys(ids) if i in store.dead and store.dead[i].queue is queue]
    letters = [store.unbury(letter_id) for letter_id in chosen]
    keys = queue.keys
    if keys is not None:
        letters.sort(key=lambda letter: keys.place(letter.envelope))
    return letters


def _unpark(queue: Queue, letters: Sequence[DeadLetter]) -> None:
    if queue.keys is not None:
        for letter in letters:
            queue.go(queue.keys.unpark(letter.envelope, letter.id))


def seek_events(store: Store, queue: Queue, to: datetime) -> int:
    """Deliver again what is stored since `to` and does not wait here; what was dead is dead no longer."""
    since = to.timestamp() * 1e6
    unfinished = {standing.item.envelope.id_bytes for standing in queue.standing(store.refresh(queue))}
    chosen = {
        item.envelope.id_bytes: (item, due)
        for item, due in store.stored()
        if item.envelope.micros >= since
        and item.envelope.id_bytes not in unfinished
        and queue.spec.takes(item.envelope.name, item.envelope.topic)
    }
    buried = [i for i, dead in store.dead.items() if dead.queue is queue and dead.letter.envelope.id_bytes in chosen]
    count = store.refill(queue, list(chosen.values()))
    _unpark(queue, _take_out(store, queue, buried))
    return count


def dead_page(
    store: Store, queue: Queue | None, query: DeadQuery, limit: int, after: UUID | None
) -> Sequence[DeadLetter]:
    """Dead letters behind `after`, oldest burial first."""
    return list(islice((letter for letter in _behind(store, queue, after) if _fits(letter, query)), limit))


def _behind(store: Store, queue: Queue | None, after: UUID | None) -> Iterator[DeadLetter]:
    last = 0
    if after is not None:
        last = store.dead[after].number if after in store.dead else store.graves.get(after, 0)
    for dead in store.dead.values():
        if dead.number > last and (queue is None or dead.queue is queue):
            yield dead.letter if dead.letter.subscription == dead.queue.name else _renamed(dead)


def _renamed(dead: Dead) -> DeadLetter:
    return replace(dead.letter, subscription=dead.queue.name)


def _fits(letter: DeadLetter, query: DeadQuery) -> bool:
    envelope, failure = letter.envelope, letter.failure
    if query.ids is not None and letter.id not in query.ids and envelope.id not in query.ids:
        return False
    if (query.name is not None and not _named(envelope, query.name)) or query.key not in (None, envelope.key):
        return False
    if query.error is not None:
        text = "" if failure is None else f"{failure.error}\n{failure.message}"
        if query.error.casefold() not in text.casefold():
            return False
    if query.reason is not None and query.reason.casefold() not in letter.reason.casefold():
        return False
    if query.before is not None and letter.buried_at >= query.before:
        return False
    return query.since is None or letter.buried_at >= query.since


def _named(envelope: Envelope, name: str) -> bool:
    return Pattern(name).matches(envelope.name) if is_pattern(name) else envelope.name == name


class _Place(NamedTuple):
    """Where an event stands among all, by the time it was published; its text is the page's cursor."""

    micros: int
    event_id: bytes

    def __str__(self) -> str:
        return f"{self.micros}-{self.event_id.hex()}"

    @classmethod
    def parse(cls, cursor: str) -> _Place:
        micros, _, event_id = cursor.partition("-")
        return cls(int(micros), bytes.fromhex(event_id))


def event_page(store: Store, query: EventQuery, limit: int, after: str | None) -> Sequence[StoredEvent]:
    """Stored events behind `after`, newest first."""
    end = None if after is None else _Place.parse(after)
    found = {
        place: item
        for item, _ in store.stored()
        if ((place := _Place(item.envelope.micros, item.envelope.id_bytes)) and (end is None or place < end))
        and _asked(item.envelope, query)
    }
    page = nlargest(limit, found)
    states = _states(store, {place.event_id for place in page})
    return [_stored_event(found[place], place, states[place.event_id]) for place in page]


def _asked(envelope: Envelope, query: EventQuery) -> bool:
    return (
        (query.id is None or envelope.id == query.id)
        and (query.name is None or _named(envelope, query.name))
        and (query.key is None or envelope.key == query.key)
        and (query.correlation_id is None or envelope.correlation_id == query.correlation_id)
        and (query.since is None or envelope.micros >= micros_of(query.since))
        and (query.before is None or envelope.micros < micros_of(query.before))
    )


def _states(store: Store, ids: set[bytes]) -> dict[bytes, dict[str, str]]:
    states: dict[bytes, dict[str, str]] = {event_id: {} for event_id in ids}
    for queue, letter, _ in store.dead.values():
        if letter.envelope.id_bytes in ids:
            states[letter.envelope.id_bytes][queue.name] = "dead"
    for queue in store.queues.values():
        for state, item, _ in queue.standing(store.refresh(queue)):
            if item.envelope.id_bytes in ids:
                states[item.envelope.id_bytes][queue.name] = _PUBLIC.get(state, state)
    return states


def _stored_event(item: Held, place: _Place, states: dict[str, str]) -> StoredEvent:
    return StoredEvent(envelope=item.envelope, cursor=str(place), states=states, event=item.event)
