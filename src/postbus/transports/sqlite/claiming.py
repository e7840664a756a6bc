"""Deliveries go out, leased to one owner under a new fence: due ones, then new ones; suspects only one at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from ...delivery import Delivery
from ...envelope import Envelope, new_id
from ...errors import UnknownSubscription
from ...transport import Claimed
from .liveness import Liveness
from .routing import Place
from .rows import COLUMNS, Malformed, envelope_of, lenient
from .schema import Tables
from .spans import Inserter, matching
from .store import Transaction

__all__ = ["Claiming"]

_NOTHING = Claimed(())

# A claim need not survive a power loss: then all its owners are gone.  But its fence must not be given again, and so
# each process begins this far from whatever reached the disk.
_LEAP = 1_000_000

# What is claimed: the event's number, which attempt it is, and the failure it carries.
_Taken = tuple[int, int, bytes | None]


class Claiming:
    """The statements of a claim."""

    def __init__(
        self, tables: Tables, connection: sqlite3.Connection, liveness: Liveness, now: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._liveness = liveness
        self._now = now
        self.leapt = False
        self._state = tables(
            "SELECT id, paused, EXISTS (SELECT 1 FROM {ready} WHERE subscription = s.id), "
            "(SELECT min(due) FROM {later} WHERE subscription = s.id), "
            "EXISTS (SELECT 1 FROM {suspect} WHERE subscription = s.id) FROM {subscription} s WHERE name = ?"
        )
        self._rest = tables(
            "SELECT (SELECT min(due) FROM {later} WHERE subscription = ?), "
            "EXISTS (SELECT 1 FROM {suspect} WHERE subscription = ?)"
        )
        self._due = tables(
            "SELECT due, seq, attempt, failure, suspect FROM {later} WHERE subscription = ? AND due <= ? "
            "ORDER BY due, seq LIMIT ?"
        )
        self._take_due = tables("DELETE FROM {later} WHERE subscription = ? AND (due, seq) <= (?, ?)")
        self._ready = tables("SELECT first, last FROM {ready} WHERE subscription = ? ORDER BY first LIMIT ?")
        self._take_ready = tables("DELETE FROM {ready} WHERE subscription = ? AND first <= ?")
        self._leave = tables("INSERT INTO {ready} (subscription, first, last) VALUES (?, ?, ?)")
        self._suspect = tables(
            "SELECT seq, attempt, failure FROM {suspect} WHERE subscription = ? ORDER BY seq LIMIT 1"
        )
        self._leave_suspect = tables(
            "INSERT OR REPLACE INTO {suspect} (subscription, seq, attempt, failure) VALUES (?, ?, ?, ?)"
        )
        self._take_suspect = tables("DELETE FROM {suspect} WHERE subscription = ? AND seq = ?")
        self._events = tables("SELECT seq, {columns} FROM {event} WHERE ", columns=COLUMNS)
        self._lease = Inserter(
            tables("INSERT INTO {lease} (subscription, seq, owner, fence, attempt, alone, failure)"), 7
        )
        self._bury = tables(
            "INSERT OR REPLACE INTO {dead} (id, subscription, seq, attempts, reason, buried_at) "
            "VALUES (?, ?, ?, ?, ?, ?)"
        )

    def peek(self, connection: sqlite3.Connection, subscription: str, *, lease: float, alone: bool) -> Claimed | None:
        """An answer without the write lock, where there is nothing to claim."""
        self._liveness.pace(lease)
        if self._liveness.sweep_needed(connection):
            return None
        row = connection.execute(self._state, (subscription,)).fetchone()
        if row is None:
            raise UnknownSubscription(f"no subscription is named {subscription!r}: declare it first")
        _, paused, ready, due, suspects = row
        if paused:
            return _NOTHING
        now = self._now()
        if suspects if alone else (ready or (due is not None and due <= now)):
            return None
        return Claimed((), None if due is None else max(0.0, due - now), bool(suspects))

    def claim(
        self, transaction: Transaction, subscription: str, *, owner: str, limit: int, lease: float, alone: bool
    ) -> Claimed:
        """Lease what is there, up to the limit."""
        place = transaction.routing.place(subscription)
        if place.paused or limit < 1:
            return _NOTHING
        self._liveness.extend(owner, lease)
        before = transaction.fence
        transaction.fence += 1 if self.leapt else _LEAP
        due, _ = transaction.execute(self._rest, (place.id, place.id)).fetchone()
        given: list[Delivery] = []
        while len(given) < limit and (taken := self._take(transaction, place, limit - len(given), due, alone=alone)):
            given += self._give(transaction, place, taken, owner, alone=alone)
            if alone:
                break
            due = None if due is None else transaction.execute(self._rest, (place.id, place.id)).fetchone()[0]
        if not given:
            transaction.fence = before
        elif not self.leapt:
            transaction.ended.append(lambda: self._landed(transaction))
        due, suspects = transaction.execute(self._rest, (place.id, place.id)).fetchone()
        return Claimed(given, None if due is None else max(0.0, due - transaction.now), bool(suspects))

    def _landed(self, transaction: Transaction) -> None:
        self.leapt = self.leapt or transaction.committed

    # -- taking

    def _take(
        self, transaction: Transaction, place: Place, room: int, due: float | None, *, alone: bool
    ) -> list[_Taken]:
        if alone:
            return self._take_one_suspect(transaction, place.id)
        taken: list[_Taken] = []
        if due is not None and due <= transaction.now:
            taken = self._take_later(transaction, place.id, room)
        if len(taken) < room:
            taken += self._take_new(transaction, place.id, room - len(taken))
        return taken

    def _take_one_suspect(self, transaction: Transaction, subscription: int) -> list[_Taken]:
        row = transaction.execute(self._suspect, (subscription,)).fetchone()
        if row is None:
            return []
        transaction.execute(self._take_suspect, (subscription, row[0]))
        return [row]

    def _take_later(self, transaction: Transaction, subscription: int, room: int) -> list[_Taken]:
        rows = transaction.execute(self._due, (subscription, transaction.now, room)).fetchall()
        if rows:
            due, seq, *_ = rows[-1]
            transaction.execute(self._take_due, (subscription, due, seq))
        taken: list[_Taken] = []
        for _, seq, attempt, failure, suspect in rows:
            if suspect:  # due again, but only for a claim that runs nothing beside it
                transaction.execute(self._leave_suspect, (subscription, seq, attempt, failure))
            else:
                taken.append((seq, attempt, failure))
        return taken

    def _take_new(self, transaction: Transaction, subscription: int, room: int) -> list[_Taken]:
        spans = transaction.execute(self._ready, (subscription, room)).fetchall()
        taken: list[_Taken] = []
        for first, last in spans:
            end = min(last, first + room - len(taken) - 1)
            taken += [(seq, 1, None) for seq in range(first, end + 1)]
            if len(taken) == room:
                break
        if taken:
            transaction.execute(self._take_ready, (subscription, taken[-1][0]))
            if end < last:
                transaction.execute(self._leave, (subscription, end + 1, last))
        return taken

    # -- giving

    def _give(
        self, transaction: Transaction, place: Place, taken: Sequence[_Taken], owner: str, *, alone: bool
    ) -> list[Delivery]:
        """Lease these; one whose row is no event is buried, and one whose event is gone is forgotten."""
        envelopes, malformed = self._read(transaction, sorted(seq for seq, _, _ in taken))
        name, fence, id_ = place.spec.name, transaction.fence, place.id
        given: list[Delivery] = []
        leases: list[Any] = []
        for seq, attempt, failure in taken:
            envelope = envelopes.get(seq)
            if envelope is not None:
                given.append(Delivery(envelope, name, attempt, fence, owner, (id_, seq), alone))
                leases += (id_, seq, owner, fence, attempt, alone, failure)
            elif seq in malformed:
                values = (new_id(), id_, seq, attempt - 1, malformed[seq], transaction.now)
                transaction.execute(self._bury, values)
        self._lease(transaction.execute, leases)
        return given

    def _read(self, transaction: Transaction, seqs: Sequence[int]) -> tuple[dict[int, Envelope], dict[int, str]]:
        try:
            return self._read_rows(transaction, seqs)
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
        self._connection.text_factory = lenient
        try:
            return self._read_rows(transaction, seqs)
        finally:
            self._connection.text_factory = str

    def _read_rows(self, transaction: Transaction, seqs: Sequence[int]) -> tuple[dict[int, Envelope], dict[int, str]]:
        envelopes: dict[int, Envelope] = {}
        malformed: dict[int, str] = {}
        for condition, values in matching(seqs):
            for row in transaction.execute(self._events + condition, values).fetchall():
                try:
                    envelopes[row[0]] = envelope_of(row[1:])
                except Malformed as error:
                    malformed[row[0]] = str(error)
        return envelopes, malformed
