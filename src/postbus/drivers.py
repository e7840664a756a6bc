"""Database clients, by table: how each runs a step of a script, begins, commits and rolls back.  Imports none of them.

What is to be done inside somebody's transaction is a *script*: a generator that yields steps and is sent what they
gave.  So it is written once, for clients that block and for those that are awaited.
"""

from __future__ import annotations

import importlib
import re
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from .errors import ConfigError

__all__ = ["Driver", "Script", "StatementFailed", "Step", "away", "collides", "driver_of", "perform", "perform_async"]

T = TypeVar("T")

# PostgreSQL: SQL with `%s` for each value, answered with rows.  SQLite: what is called with the sqlite3 connection.
Step: TypeAlias = tuple[str, Sequence[Any]] | Callable[[Any], Any]
Script: TypeAlias = Generator[Step, Any, T]

_COLLISIONS = ("40001", "40P01")  # serialization failure, deadlock
_IDLE = 0  # libpq's PQTRANS_IDLE
_CURSOR = "_postbus_cursor"  # not there while it is in use: threads may share a connection
# Connection errors, too many clients, shutdown and start-up, a statement or a lock that took too long.
_AWAY = ("08", "53", "57P", "57014", "55P03")
# What clients and pools call a connection that broke or could not be had, where the server said nothing.
_AWAY_KINDS = ("OperationalError", "InterfaceError", "TimeoutError")
_AWAY_SQLITE = (5, 6, 10, 13, 14)  # busy, locked, failed to read or write, full, cannot be opened


class StatementFailed(Exception):
    """Raised inside a script where its statement was refused; `sqlstate` says why, where the client told."""

    def __init__(self, error: BaseException) -> None:
        super().__init__((str(error).strip() or type(error).__name__).splitlines()[0])
        self.sqlstate = _state_of(error)
        self.__cause__ = error


class Driver(Protocol):
    """One kind of connection.  Where `asynchronous`, all but `refuse_autocommit` and `in_transaction` are awaited.

    Attributes:
        dialect: which steps it runs.
        asynchronous: whether its calls are awaited.
    """

    dialect: Literal["postgresql", "sqlite"]
    asynchronous: bool

    def errors(self) -> tuple[type[Exception], ...]:
        """What it raises when a statement is refused."""
        ...

    def in_transaction(self, connection: Any) -> bool:
        """Whether a transaction is open."""
        ...

    def refuse_autocommit(self, connection: Any) -> None:
        """Raise where a statement would be committed by itself.

        Raises:
            ConfigError: saying how to begin a transaction.
        """
        ...

    def take(self, connection: Any, step: Step) -> Any:
        """Run one step."""
        ...

    def begin(self, connection: Any) -> Any:
        """Begin a transaction that may write."""
        ...

    def commit(self, connection: Any) -> Any:
        """Commit it."""
        ...

    def rollback(self, connection: Any) -> Any:
        """Roll it back."""
        ...

    def discard(self, connection: Any) -> Any:
        """Close a connection of which nobody knows what it holds."""
        ...


def perform(driver: Driver, connection: Any, script: Script[T]) -> T:
    """Run a script on a connection that blocks."""
    take = driver.take
    try:
        step = next(script)
        while True:
            try:
                given = take(connection, step)
            except driver.errors() as error:
                step = script.throw(StatementFailed(error))
            else:
                step = script.send(given)
    except StopIteration as done:
        result: T = done.value
        return result


async def perform_async(driver: Driver, connection: Any, script: Script[T]) -> T:
    """Run a script on a connection that is awaited."""
    take = driver.take
    try:
        step = next(script)
        while True:
            try:
                given = await take(connection, step)
            except driver.errors() as error:
                step = script.throw(StatementFailed(error))
            else:
                step = script.send(given)
    except StopIteration as done:
        result: T = done.value
        return result


def _state_of(error: BaseException | None) -> str | None:
    """The SQLSTATE in an error, or in what it wraps."""
    return next((state for state in map(_state, _chain(error)) if state is not None), None)


def collides(error: BaseException) -> bool:
    """Whether two transactions met, so that running the same again at once may succeed."""
    return _state_of(error) in _COLLISIONS


def away(error: BaseException) -> bool:
    """Whether it says that the database cannot be had just now: it is down, full of clients, or held by somebody."""
    state = _state_of(error)
    if state is not None:
        return state.startswith(_AWAY)
    *_, cause = _chain(error)  # what others only wrap
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF in _AWAY_SQLITE
    return isinstance(cause, OSError) or any(kind.__name__ in _AWAY_KINDS for kind in type(cause).__mro__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        wrapped = getattr(error, "orig", None)  # SQLAlchemy keeps the client's own here
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__


def _state(error: BaseException) -> str | None:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def _refusal(how: str) -> ConfigError:
    return ConfigError(
        f"the connection given as within= is in autocommit mode and has no open transaction, so the event would be "
        f"stored whatever becomes of your writes: {how}, or use bus.transaction(connection)"
    )


class _Awaited:
    """How connections end a transaction whose calls are awaited."""

    async def commit(self, connection: Any) -> None:
        await connection.commit()

    async def rollback(self, connection: Any) -> None:
        await connection.rollback()

    async def discard(self, connection: Any) -> None:
        await connection.close()


# -- PostgreSQL


class _Psycopg:
    dialect: Literal["postgresql", "sqlite"] = "postgresql"
    asynchronous = False
    _kind = "Cursor"

    def __init__(self) -> None:
        module = importlib.import_module("psycopg")
        self._errors = (module.Error, UnicodeEncodeError)
        self._cursor = getattr(module, self._kind)
        self._rows = importlib.import_module("psycopg.rows").tuple_row

    def errors(self) -> tuple[type[Exception], ...]:
        return self._errors

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.info.transaction_status != _IDLE)

    def refuse_autocommit(self, connection: Any) -> None:
        if connection.autocommit and not self.in_transaction(connection):
            raise _refusal("use connection.transaction()")

    def take(self, connection: Any, step: Any) -> Any:
        sql, values = step
        cursor = self._taken(connection)
        cursor.execute(sql, values, binary=True)
        result = cursor.pgresult  # none yet in a pipeline, which fetching waits for
        rows = cursor.fetchall() if result is None or result.nfields else []
        setattr(connection, _CURSOR, cursor)
        return rows

    def _taken(self, connection: Any) -> Any:
        """A cursor of our own, for connection.cursor() is the caller's choice; kept, as a fresh one learns anew."""
        return vars(connection).pop(_CURSOR, None) or self._cursor(connection, row_factory=self._rows)

    def begin(self, connection: Any) -> None:
        if connection.autocommit:
            connection.execute("BEGIN")

    def commit(self, connection: Any) -> None:
        connection.commit()

    def rollback(self, connection: Any) -> None:
        connection.rollback()

    def discard(self, connection: Any) -> None:
        connection.close()


class _AsyncPsycopg(_Awaited, _Psycopg):  # type: ignore[misc]
    asynchronous = True
    _kind = "AsyncCursor"

    async def take(self, connection: Any, step: Any) -> Any:
        sql, values = step
        cursor = self._taken(connection)
        await cursor.execute(sql, values, binary=True)
        result = cursor.pgresult
        rows = await cursor.fetchall() if result is None or result.nfields else []
        setattr(connection, _CURSOR, cursor)
        return rows

    async def begin(self, connection: Any) -> None:  # type: ignore[override]
        if connection.autocommit:
            await connection.execute("BEGIN")


class _Psycopg2(_Psycopg):
    def __init__(self) -> None:
        self._errors = (importlib.import_module("psycopg2").Error, UnicodeEncodeError)

    def take(self, connection: Any, step: Any) -> Any:
        sql, values = step
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            return [tuple(map(_whole, row)) for row in cursor.fetchall()] if cursor.description is not None else []

    def begin(self, connection: Any) -> None:
        if connection.autocommit:
            with connection.cursor() as cursor:
                cursor.execute("BEGIN")

    def commit(self, connection: Any) -> None:
        self._end(connection, "COMMIT")

    def rollback(self, connection: Any) -> None:
        self._end(connection, "ROLLBACK")

    def _end(self, connection: Any, how: str) -> None:
        if connection.autocommit and self.in_transaction(connection):  # its own commit() does nothing then
            with connection.cursor() as cursor:
                cursor.execute(how)
        elif how == "COMMIT":
            connection.commit()
        else:
            connection.rollback()


def _whole(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


class _Asyncpg:
    dialect: Literal["postgresql", "sqlite"] = "postgresql"
    asynchronous = True

    def __init__(self) -> None:
        module = importlib.import_module("asyncpg")
        self._errors = (module.PostgresError, module.InterfaceError, OSError, UnicodeEncodeError)

    def errors(self) -> tuple[type[Exception], ...]:
        return self._errors

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.is_in_transaction())

    def refuse_autocommit(self, connection: Any) -> None:
        if not connection.is_in_transaction():
            raise _refusal("use `async with connection.transaction()`")

    async def take(self, connection: Any, step: Any) -> Any:
        sql, values = step
        return await connection.fetch(_numbered(sql), *values)

    async def begin(self, connection: Any) -> None:
        await connection.execute("BEGIN")

    async def commit(self, connection: Any) -> None:
        await connection.execute("COMMIT")

    async def rollback(self, connection: Any) -> None:
        if connection.is_in_transaction():
            await connection.execute("ROLLBACK")

    async def discard(self, connection: Any) -> None:
        connection.terminate()


@lru_cache(maxsize=1000)
def _numbered(sql: str) -> str:
    """With `$1`, `$2` in the place of each `%s`."""
    parts = re.split("%s", sql)
    return parts[0] + "".join(f"${number}{part}" for number, part in enumerate(parts[1:], 1))


# -- SQLite


class _Sqlite:
    dialect: Literal["postgresql", "sqlite"] = "sqlite"
    asynchronous = False

    def errors(self) -> tuple[type[Exception], ...]:
        return (sqlite3.Error,)

    def in_transaction(self, connection: Any) -> bool:
        return bool(connection.in_transaction)

    def refuse_autocommit(self, connection: Any) -> None:
        if connection.in_transaction:
            return
        mode: Any = getattr(connection, "autocommit", None)  # Python 3.12 and later
        if mode is True or (mode is not False and connection.isolation_level is None):
            raise _refusal("execute BEGIN IMMEDIATE first")

    def take(self, connection: Any, step: Any) -> Any:
        return step(connection)

    def begin(self, connection: Any) -> None:
        connection.execute("BEGIN IMMEDIATE")

    def commit(self, connection: Any) -> None:
        connection.commit()

    def rollback(self, connection: Any) -> None:
        connection.rollback()

    def discard(self, connection: Any) -> None:
        connection.close()


class _Aiosqlite(_Awaited, _Sqlite):  # type: ignore[misc]
    """aiosqlite's connection lives in a thread of its own, and each step is one visit there."""

    asynchronous = True

    async def take(self, connection: Any, step: Any) -> Any:
        # Its public calls run single statements; a step is many, with decisions between them.
        return await connection._execute(lambda: step(connection._conn))  # noqa: SLF001

    async def begin(self, connection: Any) -> None:  # type: ignore[override]
        await connection.execute("BEGIN IMMEDIATE")


# The package and the class of each connection.
_TABLE: dict[tuple[str, str], Callable[[], Driver]] = {
    ("psycopg", "Connection"): _Psycopg,
    ("psycopg", "AsyncConnection"): _AsyncPsycopg,
    ("psycopg2", "connection"): _Psycopg2,
    ("asyncpg", "Connection"): _Asyncpg,
    ("asyncpg", "PoolConnectionProxy"): _Asyncpg,
    ("sqlite3", "Connection"): _Sqlite,
    ("aiosqlite", "Connection"): _Aiosqlite,
}


_found: dict[type[Any], Driver | None] = {}


def driver_of(connection: Any) -> Driver | None:
    """The driver of a raw connection; None for what is none, or of a client that is not known."""
    kind = type(connection)
    if kind not in _found:
        keys = ((base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__)
        make = next((_TABLE[key] for key in keys if key in _TABLE), None)
        _found[kind] = None if make is None else make()
    return _found[kind]
