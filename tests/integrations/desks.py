"""What users give as `within=`: a connection or session of each client and framework, behind one face for tests."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import psycopg2
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

__all__ = ["ALL", "CONNECTIONS", "POSTGRES", "RAW", "SESSIONS", "Desk", "Kind", "place_of", "sqlalchemy_url"]


class Desk:
    """One caller's connection or session, with a transaction that begins when something is written.

    Attributes:
        given: what is passed as `within=`.
    """

    given: Any

    async def write(self, sql: str) -> None:
        raise NotImplementedError

    async def commit(self) -> None:
        raise NotImplementedError

    async def rollback(self) -> None:
        raise NotImplementedError

    def savepoint(self) -> AbstractAsyncContextManager[None]:
        """Rolled back when its body raises."""
        return self._savepoint()

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        await self.write("SAVEPOINT of_mine")
        try:
            yield
        except BaseException:
            await self.write("ROLLBACK TO SAVEPOINT of_mine")
            await self.write("RELEASE SAVEPOINT of_mine")
            raise
        await self.write("RELEASE SAVEPOINT of_mine")


class Blocking(Desk):
    """DB-API connections."""

    def __init__(self, connection: Any) -> None:
        self.given = connection

    async def write(self, sql: str) -> None:
        if isinstance(self.given, sqlite3.Connection) and not self.given.in_transaction:
            self.given.execute("BEGIN IMMEDIATE")
        self.given.cursor().execute(sql)

    async def commit(self) -> None:
        self.given.commit()

    async def rollback(self) -> None:
        self.given.rollback()


class Awaited(Desk):
    """psycopg's AsyncConnection, and aiosqlite's."""

    def __init__(self, connection: Any) -> None:
        self.given = connection

    async def write(self, sql: str) -> None:
        if isinstance(self.given, aiosqlite.Connection) and not self.given.in_transaction:
            await self.given.execute("BEGIN IMMEDIATE")
        await self.given.execute(sql)

    async def commit(self) -> None:
        await self.given.commit()

    async def rollback(self) -> None:
        await self.given.rollback()


class Asyncpg(Desk):
    def __init__(self, connection: Any) -> None:
        self.given = connection

    async def write(self, sql: str) -> None:
        if not self.given.is_in_transaction():
            await self.given.execute("BEGIN")
        await self.given.execute(sql)

    async def commit(self) -> None:
        await self.given.execute("COMMIT")

    async def rollback(self) -> None:
        await self.given.execute("ROLLBACK")


class Alchemy(Desk):
    """SQLAlchemy's Session and Connection."""

    def __init__(self, given: Any) -> None:
        self.given = given

    async def write(self, sql: str) -> None:
        self.given.execute(text(sql))

    async def commit(self) -> None:
        self.given.commit()

    async def rollback(self) -> None:
        self.given.rollback()

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        with self.given.begin_nested():
            yield


class AsyncAlchemy(Desk):
    """AsyncSession and AsyncConnection."""

    def __init__(self, given: Any) -> None:
        self.given = given

    async def write(self, sql: str) -> None:
        await self.given.execute(text(sql))

    async def commit(self) -> None:
        await self.given.commit()

    async def rollback(self) -> None:
        await self.given.rollback()

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        async with self.given.begin_nested():
            yield


@dataclass(frozen=True)
class Kind:
    """How to open one; `begins` is whether its transaction begins by itself."""

    name: str
    dialect: str
    open: Callable[[str], AbstractAsyncContextManager[Desk]]
    careless: Callable[[str], AbstractAsyncContextManager[Desk]] | None = None
    sync: bool = False

    def __str__(self) -> str:
        return self.name


def place_of(url: str) -> str:
    """The path of an SQLite URL of the bus's."""
    return url.removeprefix("sqlite:///")


def sqlalchemy_url(url: str, driver: str) -> str:
    """The same place in SQLAlchemy's words."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}+{driver}://{rest}"


# -- raw


def blocking(connect: Callable[[str], Any]) -> Callable[[str], AbstractAsyncContextManager[Desk]]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Desk]:
        connection = connect(url)
        try:
            yield Blocking(connection)
        finally:
            connection.close()

    return opened


def psycopg2_careless(url: str) -> Any:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


@asynccontextmanager
async def psycopg_async(url: str, *, autocommit: bool = False) -> AsyncIterator[Desk]:
    connection = await psycopg.AsyncConnection.connect(url, autocommit=autocommit)
    try:
        yield Awaited(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_raw(url: str) -> AsyncIterator[Desk]:
    connection = await asyncpg.connect(url)
    try:
        yield Asyncpg(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def asyncpg_pooled(url: str) -> AsyncIterator[Desk]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        yield Asyncpg(connection)


@asynccontextmanager
async def aiosqlite_raw(url: str, *, autocommit: bool = False) -> AsyncIterator[Desk]:
    level = {"isolation_level": None} if autocommit else {}
    async with aiosqlite.connect(place_of(url), **level) as connection:
        yield Awaited(connection)


# -- SQLAlchemy


def alchemy(driver: str, *, session: bool, autocommit: bool = False) -> Callable[[str], Any]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Desk]:
        options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        engine = create_engine(sqlalchemy_url(url, driver), **options)
        try:
            with Session(engine) if session else engine.connect() as given:
                yield Alchemy(given)
        finally:
            engine.dispose()

    return opened


def async_alchemy(driver: str, *, session: bool, autocommit: bool = False) -> Callable[[str], Any]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Desk]:
        options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        engine = create_async_engine(sqlalchemy_url(url, driver), **options)
        try:
            async with AsyncSession(engine) if session else engine.connect() as given:
                yield AsyncAlchemy(given)
        finally:
            await engine.dispose()

    return opened


def _alchemy(name: str, dialect: str, driver: str, *, session: bool = True) -> Kind:
    return Kind(
        name,
        dialect,
        alchemy(driver, session=session),
        alchemy(driver, session=session, autocommit=True),
        sync=True,
    )


def _async_alchemy(name: str, dialect: str, driver: str, *, session: bool = True) -> Kind:
    return Kind(
        name, dialect, async_alchemy(driver, session=session), async_alchemy(driver, session=session, autocommit=True)
    )


RAW = (
    Kind(
        "psycopg",
        "postgresql",
        blocking(psycopg.connect),
        blocking(lambda url: psycopg.connect(url, autocommit=True)),
        sync=True,
    ),
    Kind("psycopg-async", "postgresql", psycopg_async, lambda url: psycopg_async(url, autocommit=True)),
    Kind("psycopg2", "postgresql", blocking(psycopg2.connect), blocking(psycopg2_careless), sync=True),
    Kind("asyncpg", "postgresql", asyncpg_raw, asyncpg_raw),
    Kind("asyncpg-pool", "postgresql", asyncpg_pooled, asyncpg_pooled),
    Kind(
        "sqlite3",
        "sqlite",
        blocking(lambda url: sqlite3.connect(place_of(url))),
        blocking(lambda url: sqlite3.connect(place_of(url), isolation_level=None)),
        sync=True,
    ),
    Kind("aiosqlite", "sqlite", aiosqlite_raw, lambda url: aiosqlite_raw(url, autocommit=True)),
)
SESSIONS = (
    _alchemy("session-psycopg", "postgresql", "psycopg"),
    _alchemy("session-psycopg2", "postgresql", "psycopg2"),
    _alchemy("session-sqlite", "sqlite", "pysqlite"),
    _async_alchemy("async-session-asyncpg", "postgresql", "asyncpg"),
    _async_alchemy("async-session-psycopg", "postgresql", "psycopg"),
    _async_alchemy("async-session-sqlite", "sqlite", "aiosqlite"),
)
CONNECTIONS = (
    _alchemy("connection-psycopg", "postgresql", "psycopg", session=False),
    _alchemy("connection-sqlite", "sqlite", "pysqlite", session=False),
    _async_alchemy("async-connection-asyncpg", "postgresql", "asyncpg", session=False),
    _async_alchemy("async-connection-sqlite", "sqlite", "aiosqlite", session=False),
)
ALL = (*RAW, *SESSIONS, *CONNECTIONS)
POSTGRES = tuple(kind for kind in ALL if kind.dialect == "postgresql")
