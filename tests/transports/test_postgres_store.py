"""What lies in PostgreSQL's tables, and what transactions of other kinds than ours do to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from postbus import Bus, PublishFailed, event
from postbus.address import Address, Settings
from postbus.delivery import Ack
from postbus.envelope import Envelope, new_id
from postbus.transport import EventQuery, Outgoing, SubscriptionSpec
from postbus.transports.postgres import PostgresTransport, connect

RECEIPTS = SubscriptionSpec(name="receipts", wants=("orders.>",))


@event("orders.order.placed")
@dataclass(frozen=True)
class OrderPlaced:
    pass


def sealed(name: str = "orders.order.placed", key: str | None = None) -> Outgoing:
    return Outgoing(Envelope(new_id(), name, "orders.order", key, 1, 1, "text/plain", b"x"))


@contextlib.asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[PostgresTransport]:
    namespace = settings.pop("namespace", f"t{uuid4().hex[:12]}")
    transport = connect(Address.parse(url), Settings(namespace=namespace, **settings))
    await transport.open()
    try:
        await transport.declare([RECEIPTS])
        yield transport
    finally:
        await transport.close()


# -- the caller's transaction


@pytest.mark.parametrize("level", ["REPEATABLE_READ", "SERIALIZABLE"])
async def test_a_transaction_older_than_a_subscription_cannot_publish_past_it(postgres_url: str, level: str) -> None:
    namespace = f"t{uuid4().hex[:12]}"
    bus = Bus(postgres_url, namespace=namespace)
    async with bus, opened(postgres_url, namespace=namespace) as transport:
        with psycopg.connect(postgres_url) as connection:
            connection.isolation_level = psycopg.IsolationLevel[level]
            connection.execute("SELECT 1")
            await transport.declare([SubscriptionSpec(name="stock", wants=("orders.>",))])
            with pytest.raises(PublishFailed, match="could not serialize"):
                await bus.publish(OrderPlaced(), within=connection)
            connection.rollback()
            await bus.publish(OrderPlaced(), within=connection)  # as by any client that runs it again
            connection.commit()
        for name in ("receipts", "stock"):
            assert len((await transport.claim(name, owner="a", limit=10, lease=30)).deliveries) == 1


async def test_a_transaction_of_any_level_holds_up_no_declaration(postgres_url: str) -> None:
    namespace = f"t{uuid4().hex[:12]}"
    bus = Bus(postgres_url, namespace=namespace)
    async with bus, opened(postgres_url, namespace=namespace) as transport:
        with psycopg.connect(postgres_url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            await bus.publish(OrderPlaced(), within=connection)
            async with asyncio.timeout(5):
                await transport.declare([SubscriptionSpec(name="stock", wants=("orders.>",))])
            connection.commit()
        assert len((await transport.claim("receipts", owner="a", limit=10, lease=30)).deliveries) == 1


# -- history


async def table_names(transport: PostgresTransport, like: str) -> list[str]:
    rows = await transport._line.ask(
        "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'r' AND relname LIKE %s ORDER BY relname",
        (transport._tables.namespace, like),
    )
    return [name for (name,) in rows]


async def test_history_lies_in_partitions_that_are_dropped_whole(postgres_url: str) -> None:
    async with opened(postgres_url, retain=3 * 86_400.0) as transport:
        today = datetime.now(UTC).date()
        days = [f"history_{today + timedelta(days=n):%Y%m%d}" for n in range(7)]
        made = await table_names(transport, "history_2%")
        assert made in (days[:6], days[1:7], days[:7])  # midnight may have passed

        await transport.append([sealed(), sealed("stock.item.moved")])  # the second one is for nobody
        claimed = await transport.claim("receipts", owner="a", limit=10, lease=30)
        await transport.settle([(delivery, Ack()) for delivery in claimed.deliveries])
        rows = await transport._line.ask(transport._tables("SELECT tableoid::regclass::text FROM postbus.history"), ())
        assert len(rows) == 2
        assert all(any(day in place for day in days[3:5]) for (place,) in rows)
        assert await transport._line.ask(transport._tables("SELECT 1 FROM postbus.event"), ()) == []
        assert len(await transport.events(EventQuery())) == 2

        await transport._line.ask(
            transport._tables(
                "CREATE TABLE postbus.history_20200101 PARTITION OF postbus.history "
                "FOR VALUES FROM ('2020-01-01T00:00Z') TO ('2020-01-02T00:00Z')"
            )
        )
        transport._upkeep._next_daily = 0.0
        await transport._upkeep.partition()
        assert await table_names(transport, "history_2%") == made


async def test_history_without_a_partition_of_its_own_is_kept_and_goes_in_time(postgres_url: str) -> None:
    async with opened(postgres_url, retain=86_400.0) as transport:
        for day in await table_names(transport, "history_2%"):
            await transport._line.ask(transport._tables(f"DROP TABLE postbus.{day}"))
        await transport.append([sealed()])
        claimed = await transport.claim("receipts", owner="a", limit=10, lease=30)
        await transport.settle([(delivery, Ack()) for delivery in claimed.deliveries])
        assert len(await transport.events(EventQuery())) == 1
        await transport._line.ask(
            transport._tables("UPDATE postbus.history SET keep_until = keep_until - interval '25 hours'")
        )
        assert await transport.events(EventQuery()) == []
        await transport._upkeep.tidy()
        assert await transport._line.ask(transport._tables("SELECT 1 FROM postbus.history"), ()) == []


async def test_what_two_subscriptions_finish_at_once_is_gone(postgres_url: str) -> None:
    stock = SubscriptionSpec(name="stock", wants=("orders.>",))
    async with opened(postgres_url) as transport:
        await transport.declare([stock])
        for _ in range(20):
            await transport.append([sealed() for _ in range(5)])
            both = [await transport.claim(name, owner="a", limit=5, lease=30) for name in ("receipts", "stock")]
            await asyncio.gather(
                *(transport.settle([(delivery, Ack()) for delivery in claimed.deliveries]) for claimed in both)
            )
        assert await transport._line.ask(transport._tables("SELECT 1 FROM postbus.event"), ()) == []


async def test_two_who_seek_at_once_both_get_what_was_kept(postgres_url: str) -> None:
    stock = SubscriptionSpec(name="stock", wants=("orders.>",))
    async with opened(postgres_url, retain=3600.0) as transport:
        await transport.declare([stock])
        await transport.append([sealed() for _ in range(20)])
        for name in ("receipts", "stock"):
            claimed = await transport.claim(name, owner="a", limit=100, lease=30)
            await transport.settle([(delivery, Ack()) for delivery in claimed.deliveries])
        began = datetime.fromtimestamp(0, UTC)
        assert await asyncio.gather(transport.seek("receipts", began), transport.seek("stock", began)) == [20, 20]
        for name in ("receipts", "stock"):
            assert len((await transport.claim(name, owner="a", limit=100, lease=30)).deliveries) == 20
