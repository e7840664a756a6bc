"""FAULTS 24: a task cancelled at any wait inside a transaction leaves its connection clean, or closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import psycopg_pool
import pytest
from desks import sqlalchemy_url
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from postbus import Bus, event


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


Work = Callable[[str], Coroutine[Any, Any, None]]
Pool = Callable[[str, Bus, str], AbstractAsyncContextManager[Work]]


@asynccontextmanager
async def psycopg_pooled(url: str, bus: Bus, table: str) -> AsyncIterator[Work]:
    async with psycopg_pool.AsyncConnectionPool(url, min_size=1, max_size=1, open=False) as pool:

        async def work(name: str) -> None:
            async with pool.connection() as connection:
                await connection.execute(f"INSERT INTO {table} VALUES (%s)", (name,))
                await bus.publish(OrderPlaced(name), within=connection)

        yield work


@asynccontextmanager
async def psycopg_transaction(url: str, bus: Bus, table: str) -> AsyncIterator[Work]:
    async with psycopg_pool.AsyncConnectionPool(url, min_size=1, max_size=1, open=False) as pool:

        async def work(name: str) -> None:
            async with pool.connection() as connection, bus.transaction(connection) as tx:
                await connection.execute(f"INSERT INTO {table} VALUES (%s)", (name,))
                await bus.publish(OrderPlaced(name), within=tx)

        yield work


@asynccontextmanager
async def asyncpg_pooled(url: str, bus: Bus, table: str) -> AsyncIterator[Work]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:

        async def work(name: str) -> None:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(f"INSERT INTO {table} VALUES ($1)", name)
                await bus.publish(OrderPlaced(name), within=connection)

        yield work


@asynccontextmanager
async def asyncpg_transaction(url: str, bus: Bus, table: str) -> AsyncIterator[Work]:
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:

        async def work(name: str) -> None:
            async with pool.acquire() as connection, bus.transaction(connection) as tx:
                await connection.execute(f"INSERT INTO {table} VALUES ($1)", name)
                await bus.publish(OrderPlaced(name), within=tx)

        yield work


def sessions(driver: str) -> Pool:
    @asynccontextmanager
    async def opened(url: str, bus: Bus, table: str) -> AsyncIterator[Work]:
        engine = create_async_engine(sqlalchemy_url(url, driver), pool_size=1, max_overflow=0)
        try:
            make = async_sessionmaker(engine)

            async def work(name: str) -> None:
                async with make() as session:
                    assert isinstance(session, AsyncSession)
                    await bus.publish(OrderPlaced(name), within=session)
                    await session.execute(text(f"INSERT INTO {table} VALUES (:name)"), {"name": name})
                    await session.commit()

            yield work
        finally:
            await engine.dispose()

    return opened


POOLS: dict[str, Pool] = {
    "psycopg": psycopg_pooled,
    "psycopg-transaction": psycopg_transaction,
    "asyncpg": asyncpg_pooled,
    "asyncpg-transaction": asyncpg_transaction,
    "session-asyncpg": sessions("asyncpg"),
    "session-psycopg": sessions("psycopg"),
}


class Steps:
    """Waits as the coroutine does, and has its task cancelled at the n-th time."""

    def __init__(self, work: Coroutine[Any, Any, None], cancel_at: int) -> None:
        self._work = work
        self._left = cancel_at
        self.cancelled = False

    async def run(self) -> None:
        await self

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        assert task is not None
        act: Callable[[], Any] = partial(self._work.send, None)
        while True:
            try:
                waiting = act()
            except StopIteration:
                return
            self._left -= 1
            if self._left == 0:
                self.cancelled = True
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                act = partial(self._work.send, (yield waiting))
            except BaseException as thrown:  # noqa: BLE001 - what the loop throws is the coroutine's
                act = partial(self._work.throw, thrown)


@pytest.mark.parametrize("pool", POOLS, ids=str)
async def test_whatever_is_cancelled_the_next_publish_really_commits(pool: str, postgres_url: str) -> None:
    namespace = f"t{uuid4().hex[:12]}"
    table = f"{namespace}_orders"
    bus = Bus(postgres_url, namespace=namespace)
    got: list[str] = []
    bus.add_subscriber(lambda event: got.append(event.order_id), OrderPlaced, name="receipts")
    with psycopg.connect(postgres_url) as connection:
        connection.execute(f"CREATE TABLE {table} (name text)")
    cancelled: list[str] = []
    kept: list[str] = []
    async with bus, POOLS[pool](postgres_url, bus, table) as work:
        await work("first")  # what is read once is read
        step = 0
        while True:
            step += 1
            steps = Steps(work(f"cancelled at {step}"), step)
            await asyncio.gather(asyncio.create_task(steps.run()), return_exceptions=True)
            if not steps.cancelled:
                break
            cancelled.append(f"cancelled at {step}")
            async with asyncio.timeout(10):
                await work(f"next after {step}")
            kept.append(f"next after {step}")
        await bus.drain()
    with psycopg.connect(postgres_url) as connection:
        rows = [row[0] for row in connection.execute(f"SELECT name FROM {table}")]
    assert len(cancelled) >= 3, "it waits for the server at each statement"
    assert sorted(got) == sorted(rows), "order and event share their fate"
    assert set(rows) >= {"first", *kept}
