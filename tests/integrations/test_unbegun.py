"""A transactional subscriber that finds no transaction is not run, and spends no attempt: it waits, and is run once."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiosqlite
import asyncpg
import django.db
import psycopg
import psycopg_pool
import pytest
import sqlalchemy.exc
from sources import SOURCES, Kind
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from postbus import Bus, DeliveryContext, Retry, event, inbox
from postbus.address import Address, Settings
from postbus.delivery import Delivery
from postbus.dispatch import NotBegun
from postbus.drivers import away
from postbus.envelope import Envelope, new_id
from postbus.inbox import Inbox
from postbus.transaction import Followers
from postbus.transport import Outgoing, SubscriptionSpec
from postbus.transports.sqlite import connect
from proxy import Proxy

ONCE = Retry(attempts=1)


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


class Ledger:
    """A subscriber of either kind that notes its attempts."""

    def __init__(self) -> None:
        self.attempts: list[int] = []

    def subscriber(self, *, awaited: bool) -> Callable[..., Any]:
        async def bill_async(_: OrderPlaced, context: DeliveryContext) -> None:
            self.attempts.append(context.attempt)

        def bill(_: OrderPlaced, context: DeliveryContext) -> None:
            self.attempts.append(context.attempt)

        return bill_async if awaited else bill


async def handed_back(bus: Bus, times: int = 1) -> None:
    async with asyncio.timeout(60):
        while bus.counters.snoozed < times:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind.dialect == "postgresql"], ids=str)
@pytest.mark.parametrize("before", [True, False], ids=["before the first run", "after it"])
async def test_a_database_that_is_down_spends_no_attempt(kind: Kind, before: bool, postgres_url: str) -> None:
    with Proxy(postgres_url) as proxy:
        async with kind.open(proxy.url) as source:
            if isinstance(source, psycopg_pool.ConnectionPool | psycopg_pool.AsyncConnectionPool):
                source.timeout = 0.5
            bus, ledger = Bus("memory://", namespace=f"t{uuid4().hex[:12]}", transactions=source), Ledger()
            bus.add_subscriber(
                ledger.subscriber(awaited=kind.awaited), OrderPlaced, name="bill", transactional=True, retry=ONCE
            )
            async with bus, bus.worker():
                if not before:
                    await bus.publish(OrderPlaced("o-1"))
                    await bus.drain(timeout=20)
                proxy.refuse()
                proxy.kill()
                await bus.publish(OrderPlaced("o-2"))
                await handed_back(bus)
                proxy.accept()
                await bus.drain(timeout=60)
            assert (bus.counters.buried, ledger.attempts) == (0, [1] if before else [1, 1])


@pytest.mark.parametrize("awaited", [True, False])
async def test_a_server_that_is_full_spends_no_attempt(postgres_url: str, awaited: bool) -> None:
    """The deliveries live there, and the connections that are there already go on."""
    role = f"few_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN".encode())
        admin.execute(f"GRANT CREATE ON DATABASE {admin.info.dbname} TO {role}".encode())
        bus, ledger = Bus(postgres_url.replace("postgres@", f"{role}@"), namespace=f"t{uuid4().hex[:12]}"), Ledger()
        bus.add_subscriber(ledger.subscriber(awaited=awaited), OrderPlaced, name="bill", transactional=True, retry=ONCE)
        async with bus, bus.worker():
            admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0".encode())
            await bus.publish(OrderPlaced("o-1"))
            await handed_back(bus)
            admin.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1".encode())
            await bus.drain(timeout=30)
        assert (bus.counters.buried, ledger.attempts) == (0, [1])


@pytest.mark.parametrize("awaited", [True, False])
async def test_a_file_that_somebody_writes_to_is_waited_for_a_while(
    tmp_path: Path, awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "_PATIENCE", 0.1)
    file = tmp_path / "shop.db"
    transport = connect(Address.parse(f"sqlite:///{file}"), Settings())
    await transport.open()
    await transport.declare([SubscriptionSpec(name="bill", wants=("orders.>",))])
    envelope = Envelope(new_id(), "orders.order.placed", "orders.order", None, 0, 1, "application/json", b"{}")
    await transport.append([Outgoing(envelope)])
    (delivery,) = (await transport.claim("bill", owner="a", limit=1, lease=30)).deliveries
    entered = Inbox(transport, Followers(transport.surviving, list, not_run, not_run))
    with closing(sqlite3.connect(file, isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotBegun, match="does one stay open elsewhere"):
            await enter(entered, delivery, awaited=awaited)
        somebody.execute("ROLLBACK")
    await enter(entered, delivery, awaited=awaited)
    await transport.close()


async def enter(entered: Inbox, delivery: Delivery, *, awaited: bool) -> None:
    if awaited:
        async with entered.inside_async(delivery):
            pass
    else:
        with entered.inside(delivery):
            pass


def not_run(_: object) -> Any:
    raise AssertionError


FILES: dict[str, tuple[bool, Callable[[Path], Any]]] = {
    "sqlite3": (False, lambda file: lambda: closing(sqlite3.connect(file, timeout=0.1))),
    "aiosqlite": (True, lambda file: lambda: aiosqlite.connect(file, timeout=0.1)),
    "sessions": (False, lambda file: sessionmaker(create_engine(f"sqlite:///{file}?timeout=0.1"))),
    "async-sessions": (
        True,
        lambda file: async_sessionmaker(create_async_engine(f"sqlite+aiosqlite:///{file}?timeout=0.1")),
    ),
}


@pytest.mark.parametrize("kind", FILES)
async def test_a_file_of_marks_that_somebody_writes_to_spends_no_attempt(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    awaited, source = FILES[kind][0], FILES[kind][1](file)
    bus, ledger = Bus("memory://", transactions=source), Ledger()
    bus.add_subscriber(ledger.subscriber(awaited=awaited), OrderPlaced, name="bill", transactional=True, retry=ONCE)
    async with bus, bus.worker():
        with closing(sqlite3.connect(file, isolation_level=None)) as somebody:
            somebody.execute("BEGIN IMMEDIATE")
            await bus.publish(OrderPlaced("o-1"))
            await handed_back(bus)
            somebody.execute("ROLLBACK")
        await bus.drain(timeout=30)
    if isinstance(source, async_sessionmaker):
        await source.kw["bind"].dispose()
    elif isinstance(source, sessionmaker):
        source.kw["bind"].dispose()
    assert (bus.counters.buried, ledger.attempts) == (0, [1])


async def test_what_else_fails_before_the_subscriber_runs_is_judged_by_the_policy() -> None:
    """A factory that is wrong stays wrong."""

    def sessions() -> Any:
        raise RuntimeError("no such thing")

    bus, ledger = Bus("memory://", transactions=sessions), Ledger()
    bus.add_subscriber(ledger.subscriber(awaited=False), OrderPlaced, name="bill", transactional=True, retry=ONCE)
    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain(timeout=20)
        (letter,) = await bus.dead.list("bill")
    assert "no such thing" in letter.error
    assert ledger.attempts == []


def absent() -> sqlite3.Error:
    """A table that is not there is no outage, though its error is called operational."""
    with closing(sqlite3.connect(":memory:")) as one:
        try:
            one.execute("SELECT * FROM nowhere")
        except sqlite3.Error as error:
            return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(), True),
        (psycopg.OperationalError("connection failed"), True),
        (psycopg.errors.TooManyConnections(), True),
        (psycopg.errors.LockNotAvailable(), True),
        (psycopg.errors.AdminShutdown(), True),
        (psycopg_pool.PoolTimeout(), True),
        (psycopg.errors.UniqueViolation(), False),
        (psycopg.errors.InsufficientPrivilege(), False),
        (psycopg.errors.UndefinedTable(), False),
        (asyncpg.InterfaceError("connection is closed"), True),
        (asyncpg.ConnectionDoesNotExistError(), True),
        (asyncpg.UndefinedTableError(), False),
        (sqlalchemy.exc.TimeoutError("QueuePool limit"), True),
        (sqlalchemy.exc.OperationalError("BEGIN", {}, psycopg.OperationalError("closed")), True),
        (sqlalchemy.exc.OperationalError("BEGIN", {}, absent()), False),
        (django.db.OperationalError("connection failed"), True),
        (django.db.IntegrityError("twice"), False),
        (absent(), False),
        (RuntimeError("a factory that is wrong"), False),
    ],
    ids=lambda value: (
        type(value).__module__ + "." + type(value).__name__ if isinstance(value, Exception) else str(value)
    ),
)
def test_what_says_that_a_database_is_away(error: Exception, expected: bool) -> None:
    assert away(error) is expected
