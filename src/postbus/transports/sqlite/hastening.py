"""Retries are looked at, made due at once, or let go of."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from ...errors import UnknownSubscription
from ...retrying import Retrying
from .rows import COLUMNS, failure_of, salvaged
from .schema import Tables
from .settling import Settling
from .store import Transaction

__all__ = ["Hastening"]


class _Spot(NamedTuple):
    """Where a retry is in the order of what is due later; its text is the retry's place."""

    due: float
    seq: int

    def __str__(self) -> str:
        return f"{self.due!r}/{self.seq}"

    @classmethod
    def parse(cls, place: str) -> _Spot:
        due, _, seq = place.partition("/")
        return cls(float(due), int(seq))


class Hastening:
    """The statements about what was requeued and is not due."""

    def __init__(self, tables: Tables, settling: Settling, now: Callable[[], float]) -> None:
        self._settling = settling
        self._now = now
        columns = ", ".join(f"e.{column}" for column in COLUMNS.split(", "))
        self._known = tables("SELECT id FROM {subscription} WHERE name = ?")
        self._list = tables(
            "SELECT l.due, seq, l.attempt, l.failure, {columns} FROM {later} l JOIN {event} e USING (seq) "
            "WHERE l.subscription = ? AND l.due > ? AND NOT l.scheduled AND (l.due, seq) > (?, ?) "
            "ORDER BY l.due, seq LIMIT ?",
            columns=columns,
        )
        self._there = tables(
            "SELECT attempt, failure, suspect FROM {later} "
            "WHERE subscription = ? AND due = ? AND seq = ? AND due > ? AND NOT scheduled"
        )
        self._delete = tables(
            "DELETE FROM {later} WHERE subscription = ? AND due = ? AND seq = ? AND due > ? AND NOT scheduled"
        )
        self._due_now = tables(
            "INSERT OR REPLACE INTO {later} (subscription, due, seq, scheduled, attempt, failure, suspect) "
            "VALUES (?, 0.0, ?, 0, ?, ?, ?)"
        )
        self._key = tables("SELECT topic, key FROM {event} WHERE seq = ?")

    def retrying(
        self, connection: sqlite3.Connection, subscription: str, limit: int, after: str | None
    ) -> list[Retrying]:
        """What waits for another attempt, the soonest first.

        Raises:
            UnknownSubscription: when there is none of that name.
        """
        row = connection.execute(self._known, (subscription,)).fetchone()
        if row is None:
            raise UnknownSubscription(f"no subscription is named {subscription!r}")
        behind = _Spot(0.0, 0) if after is None else _Spot.parse(after)
        rows = connection.execute(self._list, (row[0], self._now(), *behind, limit)).fetchall()
        return [
            Retrying(
                place=str(_Spot(due, seq)),
                envelope=salvaged(columns),
                subscription=subscription,
                attempt=attempt,
                due_at=datetime.fromtimestamp(due, UTC),
                failure=failure_of(failure),
            )
            for due, seq, attempt, failure, *columns in rows
        ]

    def hasten(self, transaction: Transaction, subscription: str, places: Sequence[str]) -> int:
        """Make these due now."""
        id_, count = transaction.routing.place(subscription).id, 0
        for spot in map(_Spot.parse, dict.fromkeys(places)):
            values = (id_, *spot, transaction.now)
            row = transaction.execute(self._there, values).fetchone()
            if row is not None:
                transaction.execute(self._delete, values)
                transaction.execute(self._due_now, (id_, spot.seq, *row))
                count += 1
        if count:
            transaction.rung.add(id_)
        return count

    def abandon(self, transaction: Transaction, subscription: str, places: Sequence[str]) -> int:
        """Let go of these; a key that one of them held goes on."""
        place, count = transaction.routing.place(subscription), 0
        for spot in map(_Spot.parse, dict.fromkeys(places)):
            if transaction.execute(self._delete, (place.id, *spot, transaction.now)).rowcount == 0:
                continue
            count += 1
            row = transaction.execute(self._key, (spot.seq,)).fetchone()
            if place.spec.ordered and row is not None:
                self._settling.free_key(transaction, place.id, *row)
            self._settling.finish(transaction, [spot.seq])
        return count
