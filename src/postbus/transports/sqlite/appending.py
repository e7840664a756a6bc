"""Events come in: known ids are told apart, the rest is numbered, stored, and fanned out to who takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import NotAccepted
from ...transport import Append, Duplicate, Outgoing, Refused
from .ids import Ids
from .routing import Route
from .rows import headers_text
from .schema import Tables
from .spans import Inserter
from .store import Transaction

__all__ = ["Appending"]

_DUPLICATE = Duplicate()

# An event that is to be stored, and where it goes.
_Fresh = tuple[Outgoing, Route]
# A run of events with the same route: the route, the first number and the last.
_Run = tuple[Route, int, int]


class Appending:
    """The statements of an append."""

    def __init__(self, tables: Tables, retain: float | None) -> None:
        self._retain = retain
        self.ids = Ids(tables)
        self._events = Inserter(
            tables(
                "INSERT INTO {event} (seq, pending, keep_until, id, name, topic, key, micros, version, format, "
                "expires, headers, body)"
            ),
            13,
        )
        self._ready = Inserter(tables("INSERT INTO {ready} (subscription, first, last)"), 3)
        self._later = Inserter(tables("INSERT INTO {later} (subscription, due, seq, scheduled, attempt)"), 5)
        self._hold = tables("INSERT OR IGNORE INTO {busy} (subscription, topic, key, holders) VALUES (?, ?, ?, 1)")
        self._waiting = Inserter(tables("INSERT INTO {waiting} (subscription, topic, key, seq, due)"), 5)

    def append(self, transaction: Transaction, items: Sequence[Outgoing]) -> list[Append]:
        """Store events; one result for each."""
        if not items:
            return []
        results: list[Append] = []
        fresh = self._fresh(transaction, items, results)
        if fresh:
            self.ids.remember(transaction.execute, transaction.now, [item.envelope.id_bytes for item, _ in fresh])
            self._store(transaction, fresh)
        return results

    def _fresh(self, transaction: Transaction, items: Sequence[Outgoing], results: list[Append]) -> list[_Fresh]:
        """The events that are to be stored, and where each goes; says to `results` what becomes of all of them."""
        known = self.ids.known(transaction.execute, transaction.now, [item.envelope.id_bytes for item in items])
        fresh: list[_Fresh] = []
        name = topic = None
        for item in items:
            envelope = item.envelope
            if envelope.id_bytes in known:
                results.append(_DUPLICATE)
                continue
            if name is not envelope.name or topic is not envelope.log:  # mostly the very same text as before
                name, topic = envelope.name, envelope.log
                route = transaction.routing.route(name, topic)
            if not route.count and item.require_subscription:
                results.append(_unrouted(item))
                continue
            known.add(envelope.id_bytes)
            results.append(route.stored)
            fresh.append((item, route))
        return fresh

    def _store(self, transaction: Transaction, fresh: Sequence[_Fresh]) -> None:
        keep_until = None if self._retain is None else transaction.now + self._retain
        rows: list[Any] = []
        together: list[_Run] = []
        apart: list[tuple[Outgoing, Route, int]] = []
        seq = transaction.seq
        previous: Route | None = None
        for item, route in fresh:
            if not route.count and keep_until is None:  # nobody takes it, and nobody will look
                continue
            seq += 1
            envelope = item.envelope
            headers = envelope.header_map
            rows += (
                seq, route.count, keep_until, envelope.id_bytes, envelope.name, envelope.log, envelope.key,
                envelope.micros, envelope.version, envelope.format, envelope.expires_micros,
                headers and headers_text(headers), envelope.body,
            )  # fmt: skip
            if item.delay > 0 or (route.ordered and envelope.key is not None):
                apart.append((item, route, seq))
                previous = None
            elif route is previous:
                together[-1] = (route, together[-1][1], seq)
            else:
                together.append((route, seq, seq))
                previous = route
        transaction.seq = seq
        self._events(transaction.execute, rows)
        self._fan_out(transaction, together, apart)

    def _fan_out(
        self, transaction: Transaction, together: Sequence[_Run], apart: Sequence[tuple[Outgoing, Route, int]]
    ) -> None:
        """Whole runs become a row for each subscription; delayed and ordered ones are looked at singly."""
        ready: dict[int, list[int]] = {}
        for route, first, last in together:
            for subscription in route.plain + route.ordered:
                _extend(ready, subscription, first, last)
        later: list[Any] = []
        waiting: list[Any] = []
        for item, route, seq in apart:
            due = transaction.now + item.delay if item.delay > 0 else 0.0
            topic, key = item.envelope.log, item.envelope.key
            for subscription in route.plain + route.ordered:
                if (
                    key is not None
                    and subscription in route.ordered
                    and not self._head(transaction, subscription, item)
                ):
                    waiting += (subscription, topic, key, seq, due)
                elif due:
                    later += (subscription, due, seq, 1, 1)
                else:
                    _extend(ready, subscription, seq, seq)
        execute = transaction.execute
        self._ready(execute, [value for spans in ready.values() for value in spans])
        transaction.rung.update(ready)
        if apart:
            self._later(execute, later)
            self._waiting(execute, waiting)
            transaction.rung.update(later[::5])

    def _head(self, transaction: Transaction, subscription: int, item: Outgoing) -> bool:
        """Take the key for this event; false when it is taken."""
        values = (subscription, item.envelope.log, item.envelope.key)
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
        NotAccepted(
            f"no subscription takes {envelope.name!r} (topic {envelope.topic!r}): declare one first, "
            f"or publish without require_subscription"
        )
    )
