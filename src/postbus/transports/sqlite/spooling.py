"""As an outbox: what waits is read in order, and forgotten when it is stored elsewhere."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence

from ...envelope import new_id
from ...spool import Waiting
from .rows import COLUMNS, Malformed, envelope_of, salvaged
from .schema import Tables
from .settling import Settling
from .spans import matching, runs
from .store import Transaction

__all__ = ["Spooling"]


class Spooling:
    """The statements of an outbox.  One subscription holds everything."""

    def __init__(self, tables: Tables, settling: Settling, now: Callable[[], float]) -> None:
        self._settling = settling
        self._now = now
        self._place = tables("SELECT id FROM {subscription} WHERE name = ? AND NOT paused")
        self._ready = tables("SELECT first, last FROM {ready} WHERE subscription = ? ORDER BY first LIMIT ?")
        self._later = tables("SELECT seq, due FROM {later} WHERE subscription = ? ORDER BY seq LIMIT ?")
        self._events = tables("SELECT seq, {columns} FROM {event} WHERE ", columns=COLUMNS)
        self._around = tables(
            "SELECT first, last FROM {ready} WHERE subscription = ? AND first <= ? AND last >= ? ORDER BY first"
        )
        self._take = tables("DELETE FROM {ready} WHERE subscription = ? AND first = ?")
        self._leave = tables("INSERT INTO {ready} (subscription, first, last) VALUES (?, ?, ?)")
        self._unlater = tables("DELETE FROM {later} WHERE subscription = ? AND ")
        self._bury = tables(
            "INSERT INTO {dead} (id, subscription, seq, attempts, reason, buried_at) VALUES (?, ?, ?, 1, ?, ?)"
        )

    def waiting(
        self,
        connection: sqlite3.Connection,
        subscription: str,
        limit: int,
        skip: Collection[int],
        without: Collection[tuple[str, str]],
    ) -> list[Waiting]:
        """See `Spool.waiting`; the connection's text factory must not raise."""
        connection.execute("BEGIN")
        try:
            row = connection.execute(self._place, (subscription,)).fetchone()
            if row is None:
                return []
            among = limit + len(skip)
            while True:
                due = dict(connection.execute(self._later, (row[0], among)).fetchall())
                spans = connection.execute(self._ready, (row[0], among)).fetchall()
                numbers = sorted({*due, *_first(spans, among)})
                found = self._read(connection, sorted(set(numbers[:among]).difference(skip)), due)
                found = [one for one in found if (one.envelope.log, one.envelope.key) not in without]
                if len(found) >= limit or len(numbers) < among:
                    return found[:limit]
                among *= 4
        finally:
            connection.execute("COMMIT")

    def _read(self, connection: sqlite3.Connection, numbers: Sequence[int], due: dict[int, float]) -> list[Waiting]:
        now = self._now()
        found: list[Waiting] = []
        for condition, values in matching(numbers):
            for number, *columns in connection.execute(self._events + condition, values).fetchall():
                try:
                    delay = max(0.0, due.get(number, now) - now)
                    found.append(Waiting(envelope_of(columns), number, delay))
                except Malformed as error:
                    found.append(Waiting(salvaged(columns), number, 0.0, str(error)))
        found.sort(key=lambda waiting: waiting.number)
        return found

    def forwarded(self, transaction: Transaction, subscription: str, numbers: Sequence[int]) -> None:
        """See `Spool.forwarded`."""
        place = transaction.routing.place(subscription).id
        self._settling.finish(transaction, self._let_go(transaction, place, sorted(set(numbers))))

    def undeliverable(self, transaction: Transaction, subscription: str, refused: Sequence[tuple[int, str]]) -> None:
        """See `Spool.undeliverable`."""
        place = transaction.routing.place(subscription).id
        reasons = dict(refused)
        for number in self._let_go(transaction, place, sorted(reasons)):
            reason = reasons[number].encode("utf-8", "backslashreplace").decode()
            transaction.execute(self._bury, (new_id(), place, number, reason, transaction.now))

    def _let_go(self, transaction: Transaction, place: int, numbers: Sequence[int]) -> list[int]:
        """Take these growing numbers from what waits; return those that did."""
        gone: list[int] = []
        for condition, values in matching(numbers):
            rows = transaction.execute(f"{self._unlater}{condition} RETURNING seq", (place, *values)).fetchall()
            gone += [number for (number,) in rows]
        for low, high in runs(numbers):
            for first, last in transaction.execute(self._around, (place, high, low)).fetchall():
                transaction.execute(self._take, (place, first))
                if first < low:
                    transaction.execute(self._leave, (place, first, low - 1))
                if last > high:
                    transaction.execute(self._leave, (place, high + 1, last))
                gone += range(max(first, low), min(last, high) + 1)
        return sorted(set(gone))


def _first(spans: Iterable[tuple[int, int]], count: int) -> list[int]:
    """The first numbers of these spans."""
    found: list[int] = []
    for first, last in spans:
        found += range(first, min(last, first + count - len(found) - 1) + 1)
        if len(found) >= count:
            break
    return found
