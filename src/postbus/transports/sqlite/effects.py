"""Transactional subscribers: their writes, the done mark and the settle commit together, on their own connection."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from ...clock import Clock
from ...delivery import Ack, Delivery
from ...errors import ConfigError
from ...transport import Duplicate, Settle, Settled
from .files import Place
from .routing import RoutingCache
from .schema import Tables
from .settling import Settling
from .store import Transaction, connect_effects, is_busy, translated

__all__ = ["Effects", "end_effects"]

_ACK = Ack()
_DUPLICATE = Duplicate()


class Effects:
    """The statements of a transactional run."""

    def __init__(self, tables: Tables, settling: Settling, place: Place, clock: Clock, *, synchronous: str) -> None:
        self._settling = settling
        self._place = place
        self._clock = clock
        self._synchronous = synchronous
        self._routing = RoutingCache(tables)
        self._lock = threading.Lock()
        self._counters = tables("SELECT seq, fence, revision FROM {meta}")
        self._done = tables(
            "SELECT 1 FROM {done} WHERE id = ? AND subscription = (SELECT public FROM {subscription} WHERE id = ?)"
        )
        self._forget = tables(
            "DELETE FROM {done} WHERE id = ? AND subscription = (SELECT public FROM {subscription} WHERE id = ?)"
        )
        self._mark = tables(
            "INSERT OR IGNORE INTO {done} (subscription, id, done_at) "
            "SELECT public, ?, ? FROM {subscription} WHERE id = ?"
        )

    def done(self, transaction: Transaction, subscription: str, ids: Sequence[UUID]) -> set[UUID]:
        """See `Remembering.done`."""
        place = transaction.routing.place(subscription)
        return {id_ for id_ in ids if transaction.execute(self._done, (id_.bytes, place.id)).fetchone() is not None}

    def forget(self, transaction: Transaction, subscription: str, ids: Sequence[UUID]) -> None:
        """See `Remembering.forget`."""
        place = transaction.routing.place(subscription)
        for id_ in ids:
            transaction.execute(self._forget, (id_.bytes, place.id))

    def connect(self) -> sqlite3.Connection:
        """A connection for one run.

        Raises:
            TransportError: when the file cannot be opened.
        """
        try:
            return connect_effects(self._place.path, synchronous=self._synchronous)
        except sqlite3.Error as error:
            raise translated(error, self._place.path) from error

    def try_begin(self, connection: sqlite3.Connection) -> bool:
        """Begin, unless somebody else writes."""
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if is_busy(error):
                return False
            raise translated(error, self._place.path) from error
        self._place.check()
        return True

    def done_within(self, connection: sqlite3.Connection, delivery: Delivery) -> Settle | Duplicate:
        """Settle as done and mark it; what the lease does not allow changes nothing."""
        cursor = connection.cursor()  # whatever the subscriber's rows look like
        cursor.row_factory = None
        execute = cursor.execute
        try:
            seq, fence, revision = execute(self._counters).fetchone()
            with self._lock:  # subscribers run in threads of their own
                routing = self._routing.at(revision, execute)
            transaction = Transaction(execute, seq, fence, revision, self._clock.time(), routing, set(), [])
            (result,) = self._settling.settle(transaction, [(delivery, _ACK)])
            if not isinstance(result, Settled):
                return result
            values = (delivery.envelope.id_bytes, transaction.now, delivery.receipt[0])
            marked = execute(self._mark, values).rowcount == 1
        except sqlite3.Error as error:
            raise translated(error, self._place.path) from error
        return result if marked else _DUPLICATE


def end_effects(connection: sqlite3.Connection, path: Path, *, commit: bool) -> None:
    """Commit or roll back what `Effects.try_begin` began, and close.

    Raises:
        ConfigError: when the subscriber has ended the transaction by itself.
        TransportError: when the commit fails.
    """
    begun = connection.in_transaction
    try:
        if begun:
            connection.execute("COMMIT" if commit else "ROLLBACK")
    except sqlite3.Error as error:
        raise translated(error, path) from error
    finally:
        connection.close()
    if commit and not begun:
        raise ConfigError("a transactional subscriber must not commit or roll back context.tx: return, or raise")
