"""What users give as `Bus(transactions=...)`: session factories, pools and functions, behind one face for tests."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import psycopg_pool
from desks import place_of, sqlalchemy_url
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

__all__ = ["SOURCES", "Kind"]


@dataclass(frozen=True)
class Kind:
    """One kind of source.

    Attributes:
        open: gives what `transactions=` gets, for the database at a URL of the bus's.
        type: the class of `context.tx`.
        awaited: whether it is for `async def` subscribers.
    """

    name: str
    dialect: str
    open: Callable[[str], AbstractAsyncContextManager[Any]]
    type: type[Any]
    awaited: bool

    def __str__(self) -> str:
        return self.name

    def execute(self, tx: Any, sql: str) -> Any:
        """Run SQL; awaited where the kind is."""
        return tx.execute(text(sql) if self.type in (Session, AsyncSession) else sql)


@asynccontextmanager
async def psycopg_pooled(url: str) -> AsyncIterator[Any]:
    with psycopg_pool.ConnectionPool(url, min_size=0, max_size=10, open=True) as pool:
        yield pool


@asynccontextmanager
async def psycopg_pooled_async(url: str) -> AsyncIterator[Any]:
    async with psycopg_pool.AsyncConnectionPool(url, min_size=0, max_size=10, open=False) as pool:
        yield pool


@asynccontextmanager
async def asyncpg_pooled(url: str) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(url, min_size=0, max_size=10) as pool:
        yield pool


@asynccontextmanager
async def sqlite_function(url: str) -> AsyncIterator[Any]:
    yield lambda: closing(sqlite3.connect(place_of(url), timeout=10))


@asynccontextmanager
async def aiosqlite_function(url: str) -> AsyncIterator[Any]:
    yield lambda: aiosqlite.connect(place_of(url), timeout=10)


def sessions(driver: str) -> Callable[[str], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Any]:
        engine = create_engine(sqlalchemy_url(url, driver))
        try:
            yield sessionmaker(engine)
        finally:
            engine.dispose()

    return opened


def async_sessions(driver: str) -> Callable[[str], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Any]:
        engine = create_async_engine(sqlalchemy_url(url, driver))
        try:
            yield async_sessionmaker(engine, expire_on_commit=False)
        finally:
            await engine.dispose()

    return opened


SOURCES = (
    Kind("psycopg-pool", "postgresql", psycopg_pooled, psycopg.Connection, awaited=False),
    Kind("psycopg-async-pool", "postgresql", psycopg_pooled_async, psycopg.AsyncConnection, awaited=True),
    Kind("asyncpg-pool", "postgresql", asyncpg_pooled, object, awaited=True),
    Kind("sqlite3-function", "sqlite", sqlite_function, sqlite3.Connection, awaited=False),
    Kind("aiosqlite-function", "sqlite", aiosqlite_function, aiosqlite.Connection, awaited=True),
    Kind("sessions-psycopg", "postgresql", sessions("psycopg"), Session, awaited=False),
    Kind("sessions-sqlite", "sqlite", sessions("pysqlite"), Session, awaited=False),
    Kind("async-sessions-asyncpg", "postgresql", async_sessions("asyncpg"), AsyncSession, awaited=True),
    Kind("async-sessions-psycopg", "postgresql", async_sessions("psycopg"), AsyncSession, awaited=True),
    Kind("async-sessions-sqlite", "sqlite", async_sessions("aiosqlite"), AsyncSession, awaited=True),
)
