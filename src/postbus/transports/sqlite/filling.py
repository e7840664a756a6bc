"""A subscription is given what is stored already, a bite at a time, so that nobody waits long for the write lock.

How far it has come is a row of its own: what a process leaves half done, another one's upkeep finishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...transport import SubscriptionSpec
from .ordering import Ordering, Standing
from .schema import Tables
from .spans import Execute, matching
from .store import Transaction

__all__ = ["Filling"]

# Events that one transaction looks at.
_BITE = 5000
# After so many seconds without a bite, whoever began is taken to be gone.
_ABANDONED = 10.0


class Filling:
    """The statements that deliver stored events to one more subscription, or once more."""

    def __init__(self, tables: Tables, ordering: Ordering) -> None:
        self._tables = tables
        self._ordering = ordering
        self._begin = tables(
            "INSERT INTO {filling} (subscription, next, last, since, at) VALUES (?, 1, ?, ?, ?) ON CONFLICT DO UPDATE "
            "SET next = 1, last = excluded.last, since = min(since, excluded.since), at = excluded.at"
        )
        self._state = tables("SELECT next, last, since FROM {filling} WHERE subscription = ?")
        self._go_on = tables("UPDATE {filling} SET next = ?, at = coalesce(?, at) WHERE subscription = ?")
        self._finish = tables("DELETE FROM {filling} WHERE subscription = ?")
        self._any = tables("SELECT subscription FROM {filling} WHERE at <= ? LIMIT 1")
        self._events = tables(
            "SELECT seq, CAST(name AS BLOB), CAST(topic AS BLOB), topic, key FROM {event} "
            "WHERE seq BETWEEN ? AND ? AND micros >= ? ORDER BY seq LIMIT ?"
        )
        self._count_up = tables("UPDATE {event} SET pending = pending + 1 WHERE ")
        self._dead = tables("SELECT seq, id FROM {dead} WHERE subscription = ? AND ")
        self._unbury = tables("DELETE FROM {dead} WHERE subscription = ? AND ")
        self._unpark = tables("UPDATE {busy} SET parked = NULL WHERE subscription = ? AND parked = ?")

    def begin(self, transaction: Transaction, id_: int, since: int) -> None:
        """See to it that the subscription gets the stored events since then (microseconds) that it takes."""
        transaction.execute(self._begin, (id_, transaction.seq, since, transaction.now))

    def pending(self, execute: Execute, now: float | None = None) -> int | None:
        """A subscription that has not got all; with a time, only one that nobody looks after."""
        row = execute(self._any, (float("inf") if now is None else now - _ABANDONED,)).fetchone()
        return None if row is None else int(row[0])

    def bite(self, transaction: Transaction, id_: int, *, adopted: bool = False) -> tuple[int, bool]:
        """Deliver some more: how many were new to it, and whether there is more to look at.

        Who began it says each time that it is still there; who adopted it does not.
        """
        row = transaction.execute(self._state, (id_,)).fetchone()
        place = transaction.routing.by_id.get(id_)
        if row is None or place is None:
            transaction.execute(self._finish, (id_,))
            return 0, False
        first, last, since = row
        # In an ordered subscription a newer event must not take the key before an older one: all at once.
        limit = -1 if place.spec.ordered else _BITE
        rows = transaction.execute(self._events, (first, last, since, limit)).fetchall()
        end = last if len(rows) != limit else rows[-1][0]
        count = self._give(transaction, id_, place.spec, rows, (first, end))
        if end == last:
            transaction.execute(self._finish, (id_,))
        else:
            transaction.execute(self._go_on, (end + 1, None if adopted else transaction.now, id_))
        return count, end < last

    def _give(
        self, transaction: Transaction, id_: int, spec: SubscriptionSpec, rows: Sequence[Any], within: tuple[int, int]
    ) -> int:
        takes: dict[tuple[bytes, bytes], bool] = {}
        held = self._held(transaction, id_, within)
        due = self._not_due(transaction, within)
        found: list[Standing] = []
        for seq, raw_name, raw_topic, topic, key in rows:
            kind = (raw_name, raw_topic)
            if kind not in takes:
                takes[kind] = spec.takes(raw_name.decode(errors="replace"), raw_topic.decode(errors="replace"))
            if takes[kind] and seq not in held:
                found.append((seq, topic, key, due.get(seq, 0.0)))
        seqs = [standing[0] for standing in found]
        unburied = self._unburied(transaction, id_, seqs)
        for condition, values in matching([seq for seq in seqs if seq not in unburied]):
            transaction.execute(self._count_up + condition, values)
        self._ordering.place(transaction, id_, found, ordered=spec.ordered)
        return len(found)

    def _unburied(self, transaction: Transaction, id_: int, seqs: Sequence[int]) -> set[int]:
        """A delivery is in one place: what is dead leaves its grave, and the key that it parked."""
        unburied: set[int] = set()
        for condition, values in matching(seqs):
            for seq, letter in transaction.execute(self._dead + condition, (id_, *values)).fetchall():
                unburied.add(seq)
                transaction.execute(self._unpark, (id_, letter))
            transaction.execute(self._unbury + condition, (id_, *values))
        return unburied

    def _held(self, transaction: Transaction, id_: int, within: tuple[int, int]) -> set[int]:
        """What waits for it or runs."""
        first, last = within
        held: set[int] = set()
        spans = transaction.execute(
            self._tables("SELECT first, last FROM {ready} WHERE subscription = ? AND first <= ? AND last >= ?"),
            (id_, last, first),
        )
        for start, end in spans.fetchall():
            held.update(range(max(start, first), min(end, last) + 1))
        for state in ("later", "suspect", "lease", "waiting"):
            rows = transaction.execute(
                self._tables("SELECT seq FROM {table} WHERE subscription = ? AND seq BETWEEN ? AND ?", state),
                (id_, first, last),
            )
            held.update(seq for (seq,) in rows.fetchall())
        return held

    def _not_due(self, transaction: Transaction, within: tuple[int, int]) -> dict[int, float]:
        """Events that were published with a delay that has not passed: they come no earlier to a newcomer."""
        rows = transaction.execute(
            self._tables(
                "SELECT seq, due FROM {later} WHERE scheduled AND due > ? AND seq BETWEEN ? AND ? UNION "
                "SELECT seq, due FROM {waiting} WHERE due > ? AND seq BETWEEN ? AND ?"
            ),
            (transaction.now, *within, transaction.now, *within),
        )
        return dict(rows.fetchall())
