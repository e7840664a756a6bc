"""The connections: a bounded number, made when needed; what each error means.  Nothing is sent twice.

What was sent and lost its answer is told from what never left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Protocol, TypeAlias
from urllib.parse import parse_qsl, urlencode

import psycopg
from psycopg import AsyncConnection, Connection

from ...address import Address
from ...errors import Closed, TransportError

__all__ = ["AnswerLost", "Ask", "Door", "Line", "Refusal", "Row", "Unreachable", "hang_up", "translated"]

Row: TypeAlias = tuple[Any, ...]

# What ends a connection, though the server says it as an error: shutdown, crash, and the pooler's own.
_ENDING = ("08", "57P")


# Seconds for the few transactions that may have much to do: a migration, a subscription that is given what is stored.
_LONG = 60.0


class Unreachable(TransportError):
    """Nothing was sent."""


class AnswerLost(TransportError):
    """It was sent, and may have been done."""


class Refusal(TransportError):
    """The server refused it: nothing was done.  `again` when the same may be accepted at once."""

    def __init__(self, message: str, *, again: bool = False, unstorable: bool = False) -> None:
        super().__init__(message)
        self.again = again
        self.unstorable = unstorable


class Ask(Protocol):
    """Runs one statement."""

    def __call__(self, sql: str, values: Sequence[Any] | None = None) -> Awaitable[list[Row]]:
        """Its rows."""
        ...


class Door:
    """Where the server is: makes connections."""

    def __init__(self, address: Address, *, patience: float, size: int, prepare: bool, passed: Sequence[str]) -> None:
        self.address = address
        self.patience = patience
        self.size = size
        self._prepare = 0 if prepare else None
        url, _, query = address.url.partition("?")
        kept = urlencode([pair for pair in parse_qsl(query) if pair[0] in passed])
        rest = url.partition(":")[2]
        self._url = f"postgresql:{rest}" + (f"?{kept}" if kept else "")

    async def connection(self) -> AsyncConnection[Row]:
        """A new one for an event loop, in autocommit mode.

        Raises:
            Unreachable: when there is none to be had.
        """
        try:
            async with asyncio.timeout(self.patience):
                return await AsyncConnection.connect(self._url, **self._options())
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise Unreachable(f"{self} cannot be reached: {_first_line(error)}") from error

    def blocking(self) -> Connection[Row]:
        """A new one for a thread, in autocommit mode.

        Raises:
            Unreachable: when there is none to be had.
        """
        try:
            return Connection.connect(self._url, **self._options())
        except (psycopg.Error, OSError) as error:
            raise Unreachable(f"{self} cannot be reached: {_first_line(error)}") from error

    def _options(self) -> dict[str, Any]:
        return {
            "autocommit": True,
            "prepare_threshold": self._prepare,
            "connect_timeout": max(2, round(self.patience)),
            "application_name": "postbus",
        }

    def __str__(self) -> str:
        return str(self.address)


class Line:
    """The process's connections.  The work on one is not to be cancelled: shield it."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._idle: list[AsyncConnection[Row]] = []
        self._room = asyncio.Semaphore(door.size)
        self._closed = False

    async def ask(self, sql: str, values: Sequence[Any] | None = None, *, patience: float | None = None) -> list[Row]:
        """Run one statement, which commits by itself; return its rows.

        Raises:
            Unreachable: when it was not sent.
            AnswerLost: when it was, and the connection broke or stayed silent.
            Refusal: when the server refused it.
            Closed: after `close`.
        """
        async with self._taken(patience or self.door.patience) as connection:
            return await self._run(connection, sql, values)

    @contextlib.asynccontextmanager
    async def transaction(self, patience: float = _LONG) -> AsyncIterator[Ask]:
        """Statements that commit together, when all went well."""
        async with self._taken(max(patience, self.door.patience)) as connection:

            async def ask(sql: str, values: Sequence[Any] | None = None) -> list[Row]:
                return await self._run(connection, sql, values)

            await ask("BEGIN")
            try:
                yield ask
                await ask("COMMIT")
            finally:
                if not connection.closed and connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    await ask("ROLLBACK")

    @contextlib.asynccontextmanager
    async def _taken(self, patience: float) -> AsyncIterator[AsyncConnection[Row]]:
        """One connection, for as long as the patience lasts."""
        try:
            async with asyncio.timeout(patience):
                await self._room.acquire()
        except TimeoutError:
            raise Unreachable(f"all {self.door.size} connections to {self.door} were busy for {patience:g} s") from None
        try:
            if self._closed:
                raise Closed(f"the transport of {self.door} is closed")
            connection = self._idle.pop() if self._idle else await self.door.connection()
            # Not a timeout that cancels: the client library would wait for the server to agree.
            alarm = asyncio.get_running_loop().call_later(patience, hang_up, connection)
            try:
                yield connection
            except BaseException:
                if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    await connection.close()
                raise
            finally:
                alarm.cancel()
                if self._closed:
                    await connection.close()
                elif not connection.closed:
                    self._idle.append(connection)
        finally:
            self._room.release()

    async def _run(self, connection: AsyncConnection[Row], sql: str, values: Sequence[Any] | None) -> list[Row]:
        try:
            cursor = connection.cursor(binary=values is not None)
            await cursor.execute(sql.encode(), values, prepare=None if values is not None else False)
            return await cursor.fetchall() if cursor.description is not None else []
        except (psycopg.Error, OSError) as error:
            raise translated(error, self.door, broken=connection.closed) from error

    async def close(self) -> None:
        """Hang up, when what is under way has ended."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()


def hang_up(connection: AsyncConnection[Row] | Connection[Row]) -> None:
    """Break a connection whose answer lasts too long: whoever waits for it learns so at once."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def translated(error: Exception, door: Door, *, broken: bool) -> TransportError:
    """What an error of the client library means."""
    state = getattr(error, "sqlstate", None) or ""
    if broken or (not state and isinstance(error, psycopg.OperationalError | OSError)) or state.startswith(_ENDING):
        return AnswerLost(f"the connection to {door} broke: {_first_line(error)}")
    return Refusal(
        f"{door} refused: {_first_line(error)}",
        again=state in ("40001", "40P01"),
        unstorable=state.startswith("22") or isinstance(error, psycopg.DataError),
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
