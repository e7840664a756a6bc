"""One subscription's deliveries are put to where they belong: ready, later, or behind a key that is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .schema import Tables
from .spans import Inserter, runs
from .store import Transaction

__all__ = ["Ordering", "Standing"]

# A delivery that is to be put somewhere: the event's number, topic and key, and when it is due, or 0.
Standing = tuple[int, str, str | None, float]


class Ordering:
    """The statements that place deliveries, and that begin and end the order of a subscription."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._ready = Inserter(tables("INSERT INTO {ready} (subscription, first, last)"), 3)
        self._later = Inserter(tables("INSERT INTO {later} (subscription, due, seq, scheduled, attempt)"), 5)
        self._waiting = Inserter(tables("INSERT INTO {waiting} (subscription, topic, key, seq, due)"), 5)
        self._hold = tables(
            "INSERT INTO {busy} (subscription, topic, key, holders) VALUES (?, ?, ?, 1) "
            "ON CONFLICT DO UPDATE SET holders = 1 WHERE holders = 0 AND parked IS NULL"
        )

    def place(self, transaction: Transaction, id_: int, rows: Sequence[Standing], *, ordered: bool) -> None:
        """Put deliveries, in the order of append, to where they belong."""
        ready: list[int] = []
        later: list[Any] = []
        waiting: list[Any] = []
        held: set[tuple[str, str]] = set()
        for seq, topic, key, due in rows:
            if ordered and key is not None:
                if (topic, key) in held or not self._hold_key(transaction, id_, topic, key):
                    waiting += (id_, topic, key, seq, due)
                    continue
                held.add((topic, key))
            if due > transaction.now:
                later += (id_, due, seq, 1, 1)
            else:
                ready.append(seq)
        self._ready(transaction.execute, [value for first, last in runs(ready) for value in (id_, first, last)])
        self._later(transaction.execute, later)
        self._waiting(transaction.execute, waiting)
        transaction.rung.add(id_)

    def _hold_key(self, transaction: Transaction, id_: int, topic: str, key: str) -> bool:
        """Take a key; false when it is taken."""
        return bool(transaction.execute(self._hold, (id_, topic, key)).rowcount == 1)

    def begin(self, transaction: Transaction, id_: int) -> None:
        """From now on a key's deliveries run one by one: those under way hold it, of the others the first goes on."""
        for state in ("later", "suspect", "lease"):
            transaction.execute(
                self._tables(
                    "INSERT INTO {busy} (subscription, topic, key, holders) SELECT subscription, topic, key, count(*) "
                    "FROM {table} JOIN {event} USING (seq) WHERE subscription = ? AND key IS NOT NULL "
                    "GROUP BY topic, key ON CONFLICT DO UPDATE SET holders = holders + excluded.holders",
                    state,
                ),
                (id_,),
            )
        rows = transaction.execute(
            self._tables(
                "SELECT seq, topic, key, 0.0 FROM {ready} CROSS JOIN {event} "
                "WHERE subscription = ? AND seq BETWEEN first AND last ORDER BY seq"
            ),
            (id_,),
        ).fetchall()
        transaction.execute(self._tables("DELETE FROM {ready} WHERE subscription = ?"), (id_,))
        self.place(transaction, id_, rows, ordered=True)

    def end(self, transaction: Transaction, id_: int) -> None:
        """From now on nothing waits for a key."""
        rows = transaction.execute(
            self._tables("SELECT seq, topic, key, due FROM {waiting} WHERE subscription = ? ORDER BY seq"), (id_,)
        ).fetchall()
        for table in ("waiting", "busy"):
            transaction.execute(self._tables("DELETE FROM {table} WHERE subscription = ?", table), (id_,))
        self.place(transaction, id_, rows, ordered=False)
