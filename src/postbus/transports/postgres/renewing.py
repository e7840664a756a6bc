"""Renews leases and tells that a worker lives, on a connection of its own, from one thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import Connection

from ...delivery import Delivery
from ...transport import WorkerInfo
from .line import Door, Row, hang_up, translated
from .schema import Tables

__all__ = ["PostgresRenewer"]

# What a worker that beats before it ever renews is given.
_LEASE = 30.0


class PostgresRenewer:
    """See `Renewer`."""

    def __init__(self, door: Door, tables: Tables, check: Callable[[], None]) -> None:
        self._door = door
        self._check = check
        self._lease = _LEASE
        self._connection: Connection[Row] | None = None
        self._renew = tables(
            "SELECT postbus.renew(%s::text[], %s::bigint[], %s::integer[], %s::bigint[], %s::double precision)"
        )
        self._beat = tables(
            "INSERT INTO postbus.worker (owner, until, info) "
            "VALUES (%s, clock_timestamp() + %s::double precision * interval '1 second', %s) "
            "ON CONFLICT (owner) DO UPDATE SET until = excluded.until, info = excluded.info"
        )
        self._leave = tables("DELETE FROM postbus.worker WHERE owner = %s")

    def renew(self, deliveries: Sequence[Delivery], lease: float) -> Collection[Delivery]:
        """Extend these leases; return those that are lost."""
        self._check()
        self._lease = lease
        if not deliveries:
            return []
        values = (
            [delivery.owner for delivery in deliveries],
            [delivery.receipt.seq for delivery in deliveries],
            [delivery.receipt.subscription for delivery in deliveries],
            [delivery.fence for delivery in deliveries],
            lease,
        )
        ((numbers,),) = self._ask(self._renew, values)
        held = set(numbers)
        return [delivery for number, delivery in enumerate(deliveries, 1) if number not in held]

    def beat(self, worker: WorkerInfo) -> None:
        """Say that this worker lives."""
        self._check()
        if worker.state == "gone":
            self._ask(self._leave, (worker.owner,))
            return
        self._ask(self._beat, (worker.owner, self._lease, msgspec.json.encode(worker).decode()))

    def _ask(self, sql: str, values: Sequence[Any]) -> list[Row]:
        """One round trip.  A connection that failed is left."""
        connection = self._connection or self._door.blocking()
        self._connection = connection
        try:
            with _alarm(connection, self._door.patience):
                cursor = connection.execute(sql.encode(), values, binary=True)
                return cursor.fetchall() if cursor.description is not None else []
        except (psycopg.Error, OSError) as error:
            broken = connection.closed
            self.close()
            raise translated(error, self._door, broken=broken) from error

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                connection.close()


@contextlib.contextmanager
def _alarm(connection: Connection[Row], patience: float) -> Iterator[None]:
    """Break the connection of a call that lasts too long: the client library itself would wait for ever."""
    timer = threading.Timer(patience, hang_up, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
