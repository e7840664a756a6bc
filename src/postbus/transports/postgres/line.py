"""The connections: a bounded number, made when needed; what each error means.  Nothing is sent twice.

What was sent and lost its answer is told from what never left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Protocol, TypeAlias
from urllib.parse import parse_qsl, urlencode

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection
from psycopg.pq import TransactionStatus

from ...address import Address
from ...errors import AccessRefused, Closed, TransportError

__all__ = ["AnswerLost", "Ask", "Door", "Line", "Refusal", "Row", "Unreachable", "hang_up", "stale", "translated"]

Row: TypeAlias = tuple[Any, ...]

# What ends a connection, though the server says it as an error: shutdown, crash, and the pooler's own.
_ENDING = ("08", "57P")


# What a server says that is up and does not let us in; a connection that failed has no SQLSTATE.
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "permission denied for database",
    "does not exist",
    "no such database",
    "no such user",
)
# Statements of one connection that keep their cursor.
_CURSORS = 100
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

    def __init__(
        self, address: Address, *, patience: float, size: int, transactions: int, prepare: bool, passed: Sequence[str]
    ) -> None:
        self.address = address
        self.patience = patience
        self.size = size
        self.transactions = transactions
        self._prepare = 0 if prepare else None
        url, _, query = address.url.partition("?")
        kept = urlencode([pair for pair in parse_qsl(query) if pair[0] in passed])
        rest = url.partition(":")[2]
        self._url = f"postgresql:{rest}" + (f"?{kept}" if kept else "")

    @property
    def prepares(self) -> bool:
        """Whether statements are prepared."""
        return self._prepare is not None

    async def connection(self, *, lent: bool = False) -> AsyncConnection[Row]:
        """A new one for an event loop, in autocommit mode; for statements of ours, or `lent` to a subscriber.

        Raises:
            Unreachable: when there is none to be had.
            AccessRefused: when the server does not let us in.
        """
        try:
            async with asyncio.timeout(self.patience):
                return await AsyncConnection.connect(self._url, **self._options(lent=lent))
        except (psycopg.Error, OSError, TimeoutError) as error:
            raise self._barred(error) from error

    def blocking(self, *, lent: bool = False) -> Connection[Row]:
        """A new one for a thread, as `connection`."""
        try:
            return Connection.connect(self._url, **self._options(lent=lent))
        except (psycopg.Error, OSError) as error:
            raise self._barred(error) from error

    def _barred(self, error: BaseException) -> TransportError:
        """What it means that there is no connection."""
        text = _first_line(error)
        if "unsupported startup parameter" in text:
            text += " (a pooler in transaction mode needs prepare=off&listen=off)"
            return AccessRefused(f"{self} refuses us: {text}")
        if any(word in text for word in _REFUSALS):
            return AccessRefused(f"{self} refuses us: {text}")
        return Unreachable(f"{self} cannot be reached: {text}")

    def _options(self, *, lent: bool) -> dict[str, Any]:
        """Our statements rely on what they see, and must end in time, whatever the role's settings are.

        A pooler in transaction mode would give such settings to somebody else's statements: there they stay the role's.
        """
        patience = max(1, round(self.patience))
        ours = {
            "default_transaction_isolation": "read\\ committed",
            "statement_timeout": f"{patience}s",
            "jit": "off",  # it compiles for longer than our statements run
        }
        return {
            "autocommit": True,
            "prepare_threshold": self._prepare,
            "connect_timeout": max(2, patience),
            "application_name": "postbus",
            "client_encoding": "utf8",
            # A peer that went away without a word is noticed in about this time.
            "keepalives_idle": patience,
            "keepalives_interval": max(1, patience // 3),
            "keepalives_count": 3,
            "tcp_user_timeout": 2000 * patience,
            **({} if lent or self._prepare is None else {"options": _set(ours)}),
        }

    def __str__(self) -> str:
        return str(self.address)


class _Link:
    """One connection, and a cursor for each statement: a fresh cursor learns anew how its values are written."""

    __slots__ = ("_cursors", "alarm", "connection")

    def __init__(self, connection: AsyncConnection[Row]) -> None:
        self.connection = connection
        self.alarm: asyncio.TimerHandle | None = None
        self._cursors: dict[str, tuple[AsyncCursor[Row], bytes]] = {}

    def cursor(self, sql: str) -> tuple[AsyncCursor[Row], bytes]:
        """Its cursor, and its bytes, which must be the same object each time."""
        found = self._cursors.get(sql)
        if found is None:
            if len(self._cursors) >= _CURSORS:
                self._cursors.clear()
            found = self._cursors[sql] = (self.connection.cursor(binary=True), sql.encode())
        return found

    @property
    def in_transaction(self) -> bool:
        """Whether something is open or under way on it."""
        return self.connection.info.transaction_status != TransactionStatus.IDLE


class Line:
    """The process's connections.  The work on one is not to be cancelled: shield it."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._idle: list[_Link] = []
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
        link = await self._take(patience or self.door.patience)
        try:
            return await self._run(link, sql, values)
        finally:
            await self._give_back(link)

    async def pooled(self) -> bool:
        """Whether we talk to the server through something that gives connections other names than it does."""
        link = await self._take(self.door.patience)
        try:
            ((backend,),) = await self._run(link, "SELECT pg_backend_pid()", ())
            return bool(backend != link.connection.info.backend_pid)
        finally:
            await self._give_back(link)

    @contextlib.asynccontextmanager
    async def transaction(self, patience: float = _LONG) -> AsyncIterator[Ask]:
        """Statements that commit together, when all went well."""
        link = await self._take(max(patience, self.door.patience))

        async def ask(sql: str, values: Sequence[Any] | None = None) -> list[Row]:
            return await self._run(link, sql, values)

        try:
            await ask("BEGIN ISOLATION LEVEL READ COMMITTED")
            try:
                if patience > self.door.patience:
                    await ask(f"SET LOCAL statement_timeout = '{patience:.0f}s'")
                yield ask
                await ask("COMMIT")
            finally:
                if not link.connection.closed and link.in_transaction:
                    await ask("ROLLBACK")
        finally:
            await self._give_back(link)

    async def _take(self, patience: float) -> _Link:
        """A connection, for as long as the patience lasts."""
        if self._room.locked():
            try:
                async with asyncio.timeout(patience):
                    await self._room.acquire()
            except TimeoutError:
                text = f"all {self.door.size} connections to {self.door} were busy for {patience:g} s"
                raise Unreachable(text) from None
        else:
            await self._room.acquire()
        try:
            link = await self._connected()
        except BaseException:
            self._room.release()
            raise
        # Not a timeout that cancels: the client library would wait for the server to agree.
        link.alarm = asyncio.get_running_loop().call_later(patience, hang_up, link.connection)
        return link

    async def _give_back(self, link: _Link) -> None:
        """Keep it for the next one, unless it is broken, or left amidst something."""
        if link.alarm is not None:
            link.alarm.cancel()
        try:
            if self._closed or link.connection.closed or link.in_transaction:
                await link.connection.close()
            else:
                self._idle.append(link)
        finally:
            self._room.release()

    async def _connected(self) -> _Link:
        if self._closed:
            raise Closed(f"the transport of {self.door} is closed")
        while self._idle:
            link = self._idle.pop()
            if not stale(link.connection):
                return link
            await link.connection.close()
        return _Link(await self.door.connection())

    async def _run(self, link: _Link, sql: str, values: Sequence[Any] | None) -> list[Row]:
        try:
            if values is None:
                cursor = link.connection.cursor()
                await cursor.execute(sql.encode(), prepare=False)
            else:
                cursor, statement = link.cursor(sql)
                await cursor.execute(statement, values)
            return await cursor.fetchall() if cursor.description is not None else []
        except (psycopg.Error, OSError) as error:
            raise translated(error, self.door, broken=link.connection.closed) from error

    async def close(self) -> None:
        """Hang up, when what is under way has ended."""
        self._closed = True
        while self._idle:
            await self._idle.pop().connection.close()


def hang_up(connection: AsyncConnection[Row] | Connection[Row]) -> None:
    """Break a connection whose answer lasts too long: whoever waits for it learns so at once."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def stale(connection: AsyncConnection[Row] | Connection[Row]) -> bool:
    """Whether an idle connection has something to say: nearly always that it was closed, so it is not used again."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([connection.fileno()], (), (), 0)[0])
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def translated(error: Exception, door: Door, *, broken: bool) -> TransportError:
    """What an error of the client library means."""
    state = getattr(error, "sqlstate", None) or ""
    if broken or (not state and isinstance(error, psycopg.OperationalError | OSError)) or state.startswith(_ENDING):
        return AnswerLost(f"the connection to {door} broke: {_first_line(error)}")
    return Refusal(
        f"{door} refused: {_first_line(error)}",
        again=state in ("40001", "40P01", "55P03"),
        unstorable=state.startswith("22") or isinstance(error, psycopg.DataError),
    )


def _set(settings: dict[str, str]) -> str:
    """Settings for a new connection, as libpq takes them."""
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
