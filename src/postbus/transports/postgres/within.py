"""Appends inside the caller's own transaction, on the caller's connection and thread, in one statement."""

from __future__ import annotations

import threading
from collections.abc import Sequence, Set
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from ...errors import ConfigError, PublishFailed
from ...transport import Append, Outgoing, Refused
from .appending import Batch, Statements
from .line import Row
from .routing import Registry, Routing
from .schema import Tables

__all__ = ["Within"]


class Within:
    """The statements of an append on a connection that is not ours."""

    def __init__(
        self, tables: Tables, registry: Registry, append: Statements, retain: float | None, identity: bytes
    ) -> None:
        self._tables = tables
        self._registry = registry
        self._append = append
        self._retain = retain
        self._identity = identity
        self._routing: Routing | None = None
        self._known: WeakSet[psycopg.Connection[Any]] = WeakSet()
        self._lock = threading.Lock()
        self._seen = tables("SELECT uuid_send(id) FROM postbus.seen WHERE id = ANY (%s::uuid[])")

    def append(self, connection: psycopg.Connection[Any], items: Sequence[Outgoing]) -> list[Append]:
        """Append in the transaction that is open, or that the connection opens by itself.

        Raises:
            ConfigError: in autocommit mode, or for another database.
        """
        _refuse_autocommit(connection)
        try:
            self._check_place(connection)
            return self._store(connection, items)
        except (psycopg.Error, UnicodeEncodeError) as error:
            return [Refused(PublishFailed(f"not stored: {error}"))] * len(items)

    def surviving(self, connection: psycopg.Connection[Any], ids: Sequence[bytes]) -> Set[bytes]:
        """Which of these no savepoint has taken back."""
        return {row[0] for row in _rows(connection, self._seen, ([id_.hex() for id_ in ids],))}

    def _store(self, connection: psycopg.Connection[Any], items: Sequence[Outgoing]) -> list[Append]:
        routing = self._routing
        for _ in range(10):
            if routing is None:
                routing = self._registry.routing_of(_rows(connection, self._registry.select, ()))
                self._routing = routing
            batch = Batch(items, routing, self._retain)
            one, values = batch.call
            ((new,),) = _rows(connection, self._append.one if one else self._append.many, values)
            if new is not None:
                return batch.answered(new)
            routing = None
        return [
            Refused(PublishFailed("not stored: subscriptions are declared faster than events can be routed"))
        ] * len(items)

    def _check_place(self, connection: psycopg.Connection[Any]) -> None:
        """Once for each connection: a statement that fails would take the caller's transaction along."""
        with self._lock:  # callers have threads of their own
            if connection in self._known:
                return
        ((meta,),) = _rows(connection, "SELECT to_regclass(%s)::text", (f"{self._tables.schema}.meta",))
        identity = None
        if meta is not None:
            ((identity,),) = _rows(connection, self._tables("SELECT uuid_send(identity) FROM postbus.meta"), ())
        if identity != self._identity:
            raise ConfigError(
                f"the connection given as within= is not to the database that holds the schema {self._tables.schema} "
                f"of this bus: open it on that database, or use outbox="
            )
        with self._lock:
            self._known.add(connection)


def _rows(connection: psycopg.Connection[Any], sql: str, values: Sequence[Any]) -> list[Row]:
    with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        return cursor.execute(sql.encode(), values).fetchall()


def _refuse_autocommit(connection: psycopg.Connection[Any]) -> None:
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise ConfigError(
            "the connection given as within= is in autocommit mode and has no open transaction, so the event would be "
            "stored whatever becomes of your writes: use connection.transaction(), or bus.transaction(connection)"
        )
