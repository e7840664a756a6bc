"""Transactional subscribers: their writes, the done mark and the settle commit together, on connections of their own.

At the start the lease and the mark are only looked at: no lock is held while the subscriber runs, so one that is
frozen holds up nobody.  The end decides: settle, mark and COMMIT leave together, and are refused without the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import lru_cache
from typing import Any, NamedTuple

import psycopg
from psycopg import AsyncConnection, Connection, Cursor
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.sql import quote

from ...delivery import Delivery
from ...errors import Closed, ConfigError, TransportError
from ...transport import Duplicate, Settle, Settled
from .line import AnswerLost, Door, Row, Unreachable, hang_up, stale, translated
from .schema import Tables
from .settling import lost

__all__ = ["Effects"]

_SETTLED = Settled()
_DUPLICATE = Duplicate()
# A run that finds no free connection for this long is an error, which the retry policy judges.
_PATIENCE = 30.0
# What `postbus.look` says, and what `postbus.done` raises.
_ELSEWHERE, _MARKED = 0, 1
_LEASE_LOST = "PB001"
_GOOD = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class _Run(NamedTuple):
    delivery: Delivery
    repeated: bool


class Effects:
    """The connections and statements of transactional runs, in threads and in the event loop."""

    def __init__(self, door: Door, tables: Tables, *, size: int) -> None:
        self._door = door
        self._size = size
        self._thread_room = threading.BoundedSemaphore(size)
        self._loop_room = asyncio.Semaphore(size)
        self._idle: list[Connection[Row]] = []
        self._idle_async: list[AsyncConnection[Row]] = []
        self._runs: dict[int, _Run] = {}
        self._closed = False
        # Both are sent as text without parameters, because only so several statements go in one round trip; their
        # values are numbers, hexadecimal digits and a quoted name.
        self._begin = tables("BEGIN ISOLATION LEVEL READ COMMITTED; SELECT postbus.look(%s, %s, %s, %s, '%s')")
        self._done = tables("SELECT postbus.done(%s, %s, %s, %s, '%s', %s); COMMIT")

    # -- in threads

    def connect(self) -> Connection[Row]:
        """A connection for one run.

        Raises:
            TransportError: when there is none to be had.
        """
        if not self._thread_room.acquire(timeout=_PATIENCE):
            raise self._busy()
        try:
            return self._blocking()
        except BaseException:
            self._thread_room.release()
            raise

    def _blocking(self) -> Connection[Row]:
        self._refuse_closed()
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread took the last one
                connection = self._idle.pop()
                if not stale(connection):
                    return connection
                connection.close()
        return self._door.blocking(lent=True)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Closed(f"the transport of {self._door} is closed")

    def done_within(self, connection: Connection[Row], delivery: Delivery) -> Settle | Duplicate:
        """Begin, and look at the lease and the mark."""
        try:
            cursor = Cursor(connection)
            cursor.execute(self._text(self._begin, _looked_for(delivery)), prepare=False)
            cursor.nextset()
            ((found,),) = cursor.fetchall()
        except (psycopg.Error, OSError) as error:
            raise translated(error, self._door, broken=connection.closed) from error
        return self._verdict(connection, delivery, found)

    def end(self, connection: Connection[Row], *, commit: bool) -> None:
        """Settle, mark and commit, or roll back; and give the connection back.

        Raises:
            LeaseLost: when the delivery was given to somebody else meanwhile; nothing is kept.
            ConfigError: when the subscriber has ended the transaction by itself.
            AnswerLost: when the connection broke; it may have been committed.
            psycopg.Error: when the database refuses the commit.
        """
        run = self._runs.pop(id(connection), None)
        try:
            if commit and run is not None:
                _refuse_ended(connection)
                try:
                    Cursor(connection).execute(self._text(self._done, _settled(run)), prepare=False)
                except (psycopg.Error, OSError) as error:
                    meant = self._meant(error, run, broken=connection.closed)
                    if meant is None:
                        raise
                    raise meant from error
        finally:
            with contextlib.suppress(psycopg.Error, OSError):
                if not connection.closed and _status(connection) != TransactionStatus.IDLE:
                    connection.rollback()
            if connection.closed or self._closed or _status(connection) != TransactionStatus.IDLE:
                connection.close()
            else:
                self._idle.append(connection)
            self._thread_room.release()

    # -- in the event loop

    async def begin_async(self, delivery: Delivery) -> tuple[AsyncConnection[Row], Settle | Duplicate]:
        """Take a connection, begin, and look at the lease and the mark."""
        await self._find_room()
        connection: AsyncConnection[Row] | None = None
        try:
            connection = await self._connected()
            _, looked = await self._ask(connection, self._text(self._begin, _looked_for(delivery)))
            return connection, self._verdict(connection, delivery, int(looked.get_value(0, 0) or b""))
        except BaseException as error:
            if connection is not None:
                await connection.close()
            self._loop_room.release()
            if connection is not None and isinstance(error, psycopg.Error | OSError):
                raise translated(error, self._door, broken=True) from error
            raise

    async def _find_room(self) -> None:
        if self._loop_room.locked():
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._loop_room.acquire()
            except TimeoutError:
                raise self._busy() from None
        else:
            await self._loop_room.acquire()

    async def _connected(self) -> AsyncConnection[Row]:
        self._refuse_closed()
        while self._idle_async:
            connection = self._idle_async.pop()
            if not stale(connection):
                return connection
            await connection.close()
        return await self._door.connection(lent=True)

    async def end_async(self, connection: AsyncConnection[Row], *, commit: bool) -> None:
        """As `end`."""
        run = self._runs.pop(id(connection), None)
        try:
            if commit and run is not None:
                _refuse_ended(connection)
                try:
                    await self._ask(connection, self._text(self._done, _settled(run)))
                except (psycopg.Error, OSError) as error:
                    meant = self._meant(error, run, broken=connection.closed)
                    if meant is None:
                        raise
                    raise meant from error
        finally:
            # One that was cancelled amidst a statement is closed, never used again.
            if _status(connection) in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                with contextlib.suppress(psycopg.Error, OSError):
                    await self._ask(connection, b"ROLLBACK")
            if connection.closed or self._closed or _status(connection) != TransactionStatus.IDLE:
                await connection.close()
            else:
                self._idle_async.append(connection)
            self._loop_room.release()

    async def _ask(self, connection: AsyncConnection[Row], sql: bytes) -> list[PGresult]:
        """One round trip; the result of each statement.

        Below the client's cursors, which cost three times as much as all the rest of it.
        """
        loop = asyncio.get_running_loop()
        alarm = loop.call_later(self._door.patience, hang_up, connection)
        try:
            async with connection.lock:  # the subscriber may have left a task behind that uses it
                return await _Exchange(connection.pgconn, loop).run(sql)
        finally:
            alarm.cancel()

    async def close(self) -> None:
        """Hang up what is idle; what is in use follows when it is given back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        while self._idle_async:
            await self._idle_async.pop().close()

    # -- both

    def _text(self, sql: str, values: tuple[Any, ...]) -> bytes:
        """The statements with their values in."""
        return (sql % values).encode()

    def _verdict(self, connection: object, delivery: Delivery, found: int) -> Settle | Duplicate:
        if found == _ELSEWHERE:
            return lost(delivery)
        self._runs[id(connection)] = _Run(delivery, found == _MARKED)
        return _DUPLICATE if found == _MARKED else _SETTLED

    def _meant(self, error: Exception, run: _Run, *, broken: bool) -> Exception | None:
        """What an error at the end means to us; None where it is the subscriber's own."""
        if getattr(error, "sqlstate", None) == _LEASE_LOST:
            return lost(run.delivery)
        meant = translated(error, self._door, broken=broken)
        return meant if isinstance(meant, AnswerLost) else None

    def _busy(self) -> TransportError:
        return Unreachable(
            f"all {self._size} connections for transactional subscribers were busy for {_PATIENCE:g} s: "
            f"give the URL a larger transactions=, or the subscriber a smaller concurrency="
        )


class _Exchange:
    """Statements without parameters, on their way to the server, and what it answers."""

    def __init__(self, pgconn: PGconn, loop: asyncio.AbstractEventLoop) -> None:
        self._pgconn = pgconn
        self._loop = loop
        self._answered: asyncio.Future[None] = loop.create_future()
        self._results: list[PGresult] = []
        self._writes = False  # there is more to send than the socket took at once

    async def run(self, sql: bytes) -> list[PGresult]:
        """Send them; return what each gave.

        Raises:
            psycopg.Error: when one was refused, or the connection broke.
        """
        pgconn, loop = self._pgconn, self._loop
        socket = pgconn.socket
        pgconn.send_query(sql)
        loop.add_reader(socket, self._receive)
        try:
            if pgconn.flush():
                self._writes = True
                loop.add_writer(socket, self._flush)
            await self._answered
        finally:
            loop.remove_reader(socket)
            if self._writes:
                loop.remove_writer(socket)
        for result in self._results:
            if result.status not in _GOOD:
                raise error_from_result(result)
        return self._results

    def _flush(self) -> None:
        try:
            if not self._pgconn.flush():
                self._writes = False
                self._loop.remove_writer(self._pgconn.socket)
        except psycopg.Error as error:
            self._fail(error)

    def _receive(self) -> None:
        try:
            self._pgconn.consume_input()
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    if not self._answered.done():
                        self._answered.set_result(None)
                    return
                self._results.append(result)
        except psycopg.Error as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(error)


def _looked_for(delivery: Delivery) -> tuple[Any, ...]:
    subscription, seq = delivery.receipt
    return _quoted(delivery.owner), seq, subscription, delivery.fence, delivery.envelope.id_bytes.hex()


def _settled(run: _Run) -> tuple[Any, ...]:
    delivery = run.delivery
    subscription, seq = delivery.receipt
    id_ = delivery.envelope.id_bytes.hex()
    return _quoted(delivery.owner), seq, subscription, delivery.fence, id_, str(run.repeated).lower()


@lru_cache(maxsize=16)
def _quoted(owner: str) -> str:
    return quote(owner)


def _status(connection: Connection[Row] | AsyncConnection[Row]) -> TransactionStatus:
    return TransactionStatus(connection.pgconn.transaction_status)


def _refuse_ended(connection: Connection[Row] | AsyncConnection[Row]) -> None:
    if not connection.closed and _status(connection) == TransactionStatus.IDLE:
        raise ConfigError("a transactional subscriber must not commit or roll back context.tx: return, or raise")
