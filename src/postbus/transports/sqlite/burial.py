"""Dead letters come back, or go for good."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from ...envelope import Envelope
from .rows import headers_text
from .schema import Tables
from .settling import Settling
from .store import Transaction

__all__ = ["Burial"]


class Burial:
    """The statements that move dead letters."""

    def __init__(self, tables: Tables, settling: Settling) -> None:
        self._settling = settling
        self._find = tables(
            "SELECT seq, topic, key FROM {dead} LEFT JOIN {event} USING (seq) "
            "WHERE {dead}.subscription = ? AND {dead}.id = ?"
        )
        self._delete = tables("DELETE FROM {dead} WHERE id = ?")
        self._ready = tables("INSERT OR REPLACE INTO {ready} (subscription, first, last) VALUES (?, ?, ?)")
        self._unpark = tables(
            "UPDATE {busy} SET parked = NULL WHERE subscription = ? AND topic = ? AND key = ? AND parked = ?"
        )
        self._take = tables(
            "INSERT INTO {busy} (subscription, topic, key, holders) VALUES (?, ?, ?, 1) "
            "ON CONFLICT DO UPDATE SET holders = 1 WHERE holders = 0 AND parked IS NULL"
        )
        self._wait = tables("INSERT INTO {waiting} (subscription, topic, key, seq, due) VALUES (?, ?, ?, ?, 0)")
        self._idle = tables(
            "SELECT 1 FROM {busy} WHERE subscription = ? AND topic = ? AND key = ? AND holders = 0 AND parked IS NULL"
        )

        self._event = tables(
            "INSERT INTO {event} (seq, pending, id, name, topic, key, micros, version, format, expires, headers, body) "
            "VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        self._amend = tables("UPDATE {dead} SET seq = ? WHERE id = ?")

    def amend(self, transaction: Transaction, subscription: str, letter: UUID, envelope: Envelope) -> bool:
        """Let a dead letter hold another event, which no other subscription sees."""
        place = transaction.routing.place(subscription)
        row = transaction.execute(self._find, (place.id, letter.bytes)).fetchone()
        if row is None:
            return False
        transaction.seq += 1
        values = (
            transaction.seq, envelope.id_bytes, envelope.name, envelope.log, envelope.key, envelope.micros,
            envelope.version, envelope.format, envelope.expires_micros, headers_text(envelope.header_map),
            envelope.body,
        )  # fmt: skip
        transaction.execute(self._event, values)
        transaction.execute(self._amend, (transaction.seq, letter.bytes))
        self._settling.finish(transaction, [row[0]])
        return True

    def replay(self, transaction: Transaction, subscription: str, ids: Sequence[UUID]) -> int:
        """Make these ready again, with no attempt spent; in an ordered subscription they take their turn."""
        place = transaction.routing.place(subscription)
        count = 0
        for id_ in dict.fromkeys(ids):
            row = transaction.execute(self._find, (place.id, id_.bytes)).fetchone()
            if row is None:
                continue
            count += 1
            seq, topic, key = row
            transaction.execute(self._delete, (id_.bytes,))
            if place.spec.ordered and key is not None:
                transaction.execute(self._unpark, (place.id, topic, key, id_.bytes))
                if transaction.execute(self._take, (place.id, topic, key)).rowcount == 0:
                    transaction.execute(self._wait, (place.id, topic, key, seq))
                    continue
            transaction.execute(self._ready, (place.id, seq, seq))
        if count:
            transaction.rung.add(place.id)
        return count

    def discard(self, transaction: Transaction, subscription: str, ids: Sequence[UUID]) -> int:
        """Delete these; a key that one of them held goes on."""
        place = transaction.routing.place(subscription)
        count = 0
        for id_ in dict.fromkeys(ids):
            row = transaction.execute(self._find, (place.id, id_.bytes)).fetchone()
            if row is None:
                continue
            count += 1
            seq, topic, key = row
            transaction.execute(self._delete, (id_.bytes,))
            if key is not None:
                transaction.execute(self._unpark, (place.id, topic, key, id_.bytes))
                if transaction.execute(self._idle, (place.id, topic, key)).fetchone():
                    self._settling.advance(transaction, place.id, topic, key)
            self._settling.finish(transaction, [seq])
        return count
