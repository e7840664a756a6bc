"""Events come in: known ids are told apart, the rest is numbered, stored, and fanned out to the subscriptions that take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import PublishFailed
from ...transport import Append, Duplicate, Outgoing, Refused, Stored
from .routing import Route
from .rows import headers_text
from .schema import Tables
from .spans import Inserter
from .store import Transaction

__all__ = ["BUCKET", "Appending"]

# Ids are remembered in buckets of this many seconds: this one and the last, so for at least as long.
BUCKET = 600
# So many known ids between a batch's smallest and largest are fetched to compare; with more, each is asked for.
_COMPARED = 1000

_DUPLICATE = Duplicate()
_UNROUTED = Stored(0)

# A run of events with the same route: the route, the first number and the last.
_Run = tuple[Route, int, int]


class Appending:
    """The statements of an append."""

    def __init__(self, tables: Tables, retain: float | None) -> None:
        self._retain = retain
        self._between = tables(
            "SELECT id FROM {seen} WHERE bucket IN (?, ?) AND id BETWEEN ? AND ? LIMIT " + str(_COMPARED)
        )
        self._one = tables("SELECT 1 FROM {seen} WHERE bucket IN (?, ?) AND id = ? LIMIT 1")
        self._events = Inserter(
            tables(
                "INSERT INTO {event} (seq, pending, keep_until, id, name, topic, key, micros, version, format, "
                "expires, headers, body)"
            ),
            13,
        )
        self._seen = Inserter(tables("INSERT INTO {seen} (bucket, id)"), 2)
        self._ready = Inserter(tables("INSERT INTO {ready} (subscription, first, last)"), 3)
        self._later = Inserter(tables("INSERT INTO {later} (subscription, due, seq, scheduled, attempt)"), 5)
        self._hold = tables("INSERT OR IGNORE INTO {busy} (subscription, topic, key, holders) VALUES (?, ?, ?, 1)")
        self._waiting = Inserter(tables("INSERT INTO {waiting} (subscription, topic, key, seq, due)"), 5)

    def append(self, transaction: Transaction, items: Sequence[Outgoing]) -> list[Append]:
        """Store events; one result for each."""
        if not items:
            return []
        bucket = int(transaction.now // BUCKET)
        known = self.known(transaction, bucket, [item.envelope.id_bytes for item in items])
        keep_until = None if self._retain is None else transaction.now + self._retain
        route_of = transaction.routing.route
        results: list[Append] = []
        events: list[Any] = []
        seen: list[Any] = []
        batch: list[_Run] = []
        apart: list[tuple[Outgoing, Route, int]] = []
        seq = first = transaction.seq + 1
        previous: Route | None = None
        for item in items:
            envelope = item.envelope
            id_ = envelope.id_bytes
            if id_ in known:
                results.append(_DUPLICATE)
                continue
            route = route_of(envelope.name, envelope.topic)
            if not route.count and item.require_subscription:
                results.append(_unrouted(item))
                continue
            known.add(id_)
            seen += (bucket, id_)
            results.append(route.stored)
            if not route.count and keep_until is None:  # nobody takes it, and nobody will look
                continue
            headers = envelope.header_map
            events += (
                seq, route.count, keep_until, id_, envelope.name, envelope.topic, envelope.key, envelope.micros,
                envelope.version, envelope.format, envelope.expires_micros, headers and headers_text(headers),
                envelope.body,
            )  # fmt: skip
            if item.delay > 0 or (route.ordered and envelope.key is not None):
                apart.append((item, route, seq))
                previous = None
            elif route is previous:
                batch[-1] = (route, batch[-1][1], seq)
            else:
                batch.append((route, seq, seq))
                previous = route
            seq += 1
        if seen:
            self._seen(transaction.execute, seen)
        if seq > first:
            transaction.seq = seq - 1
            self._events(transaction.execute, events)
            self._fan_out(transaction, batch, apart)
        return results

    def known(self, transaction: Transaction, bucket: int, ids: Sequence[bytes]) -> set[bytes]:
        """Which of these ids were stored within the window."""
        low, high = (ids[0], ids[0]) if len(ids) == 1 else (min(ids), max(ids))
        rows = transaction.execute(self._between, (bucket - 1, bucket, low, high)).fetchall()
        if len(rows) < _COMPARED:
            return {row[0] for row in rows}
        return {id_ for id_ in ids if transaction.execute(self._one, (bucket - 1, bucket, id_)).fetchone()}

    def _fan_out(
        self, transaction: Transaction, batch: Sequence[_Run], apart: Sequence[tuple[Outgoing, Route, int]]
    ) -> None:
        """Whole runs become a row for each subscription; delayed and ordered ones are looked at singly."""
        ready: dict[int, list[int]] = {}
        for route, first, last in batch:
            for subscription in route.plain + route.ordered:
                _extend(ready, subscription, first, last)
        later: list[Any] = []
        waiting: list[Any] = []
        for item, route, seq in apart:
            due = transaction.now + item.delay if item.delay > 0 else 0.0
            topic, key = item.envelope.topic, item.envelope.key
            for subscription in route.plain + route.ordered:
                if key is not None and subscription in route.ordered and not self._head(transaction, subscription, item):
                    waiting += (subscription, topic, key, seq, due)
                elif due:
                    later += (subscription, due, seq, 1, 1)
                else:
                    _extend(ready, subscription, seq, seq)
        execute = transaction.execute
        self._ready(execute, [value for spans in ready.values() for value in spans])
        self._later(execute, later)
        self._waiting(execute, waiting)
        transaction.rung.update(ready)
        transaction.rung.update(later[::5])

    def _head(self, transaction: Transaction, subscription: int, item: Outgoing) -> bool:
        """Take the key for this event; false when it is taken."""
        values = (subscription, item.envelope.topic, item.envelope.key)
        return bool(transaction.execute(self._hold, values).rowcount == 1)


def _extend(ready: dict[int, list[int]], subscription: int, first: int, last: int) -> None:
    """Add a run to a subscription's rows, joined to its last where no number lies between."""
    spans = ready.setdefault(subscription, [])
    if spans and spans[-1] == first - 1:
        spans[-1] = last
    else:
        spans += (subscription, first, last)


def _unrouted(item: Outgoing) -> Refused:
    envelope = item.envelope
    return Refused(
        PublishFailed(
            f"no subscription takes {envelope.name!r} (topic {envelope.topic!r}): declare one first, "
            f"or publish without require_subscription"
        )
    )
