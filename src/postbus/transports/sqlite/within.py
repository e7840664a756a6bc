"""Appends inside the caller's own transaction, on the caller's connection and thread."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from ...clock import Clock
from ...errors import ConfigError, PublishFailed, TransportFull
from ...transport import Append, Outgoing, Refused
from .appending import Appending
from .routing import RoutingCache
from .schema import Tables
from .store import Transaction

__all__ = ["Within"]


class Within:
    """The statements of an append on a connection that is not ours."""

    def __init__(self, path: Path, tables: Tables, appending: Appending, clock: Clock) -> None:
        self._name = path.name
        self._appending = appending
        self._clock = clock
        self._routing = RoutingCache(tables)
        self._lock = threading.Lock()
        self._number = tables("UPDATE {meta} SET seq = seq + ? WHERE identity = ?")
        self._identity = tables("SELECT identity FROM {meta}")
        self._numbers = tables("SELECT seq, fence, revision FROM {meta}")

    def append(self, connection: sqlite3.Connection, identity: bytes, items: Sequence[Outgoing]) -> list[Append]:
        """Append in the transaction that is open, or that the connection opens by itself.

        Raises:
            ConfigError: in autocommit mode, or for another database.
        """
        _refuse_autocommit(connection)
        cursor = connection.cursor()
        cursor.row_factory = None
        opened = not connection.in_transaction
        try:
            # A write comes first: a transaction that reads first cannot write any more once somebody else has.
            if cursor.execute(self._number, (len(items), identity)).rowcount != 1:
                raise self._elsewhere()
            cursor.execute("SAVEPOINT postbus_append")
            try:
                results = self._append(cursor, items)
            except BaseException:
                if connection.in_transaction:  # a full disk rolls back by itself
                    cursor.execute("ROLLBACK TO postbus_append")
                    cursor.execute("RELEASE postbus_append")
                raise
            cursor.execute("RELEASE postbus_append")
        except sqlite3.Error as error:
            return self._refused(error, items)
        except ConfigError:
            if opened and connection.in_transaction:
                connection.rollback()
            raise
        else:
            return results
        finally:
            cursor.close()

    def surviving(self, connection: sqlite3.Connection, ids: Sequence[bytes]) -> Set[bytes]:
        """Which of these no savepoint has taken back."""
        if not ids:
            return set()
        cursor = connection.cursor()
        cursor.row_factory = None
        try:
            return self._appending.ids.known(cursor.execute, self._clock.time(), ids).intersection(ids)
        finally:
            cursor.close()

    def holds(self, connection: sqlite3.Connection, identity: bytes) -> bool:
        """Whether this connection is to the file with these tables."""
        cursor = connection.cursor()
        cursor.row_factory = None
        try:
            row = cursor.execute(self._identity).fetchone()
        except sqlite3.OperationalError:
            return False  # no such table
        finally:
            cursor.close()
        return row is not None and row[0] == identity

    def _append(self, cursor: sqlite3.Cursor, items: Sequence[Outgoing]) -> list[Append]:
        seq, fence, revision = cursor.execute(self._numbers).fetchone()
        with self._lock:  # callers have threads of their own
            routing = self._routing.at(revision, cursor.execute)
        transaction = Transaction(
            cursor.execute, seq - len(items), fence, revision, self._clock.time(), routing, set(), []
        )
        return self._appending.append(transaction, items)

    def _elsewhere(self) -> ConfigError:
        return ConfigError(
            f"the connection given as within= is not to {self._name}, where the tables of postbus are: open it on that "
            f"file, or use outbox="
        )

    def _refused(self, error: sqlite3.Error, items: Sequence[Outgoing]) -> list[Append]:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if "no such table" in str(error):
            raise self._elsewhere() from error
        if code == sqlite3.SQLITE_FULL:
            return [Refused(TransportFull(f"not stored: the disk of {self._name} is full"))] * len(items)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            hint = "begin the transaction with BEGIN IMMEDIATE, so that it has the write lock before it reads"
            return [Refused(PublishFailed(f"not stored: {self._name} is busy: {error}; {hint}"))] * len(items)
        return [Refused(PublishFailed(f"not stored: {error}"))] * len(items)


def _refuse_autocommit(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        return
    mode: Any = getattr(connection, "autocommit", None)  # Python 3.12 and later
    if mode is True or (mode is not False and connection.isolation_level is None):
        raise ConfigError(
            "the connection given as within= is in autocommit mode and has no open transaction, so the event would be "
            "stored whatever becomes of your writes: execute BEGIN IMMEDIATE first, or use bus.transaction(connection)"
        )
