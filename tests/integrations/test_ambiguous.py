"""The answer to a COMMIT is lost: nobody knows, and yet there is one effect, and one event."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from sources import SOURCES, Kind

from postbus import Bus, DeliveryContext, Retry, event
from proxy import Proxy


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


class Shop:
    """Bills in a database that is reached through a proxy; looked at directly."""

    def __init__(self, url: str, proxy: Proxy) -> None:
        self.proxy = proxy
        self.namespace = f"t{uuid4().hex[:12]}"
        self.table = f"{self.namespace}_bill"
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute(f"CREATE TABLE {self.table} (name text)".encode())

    def insert(self, name: str) -> str:
        return f"INSERT INTO {self.table} (name) VALUES ('{name}')"

    def bills(self) -> list[str]:
        return [row[0] for row in self.connection.execute(f"SELECT name FROM {self.table}".encode())]


@pytest.fixture
async def shop(postgres_url: str) -> AsyncIterator[Shop]:
    with Proxy(postgres_url) as proxy:
        made = Shop(postgres_url, proxy)
        yield made
        made.connection.close()


async def reacted(shop: Shop, bus: Bus, bill: Callable[..., Any], commit: bytes = b"COMMIT") -> None:
    """Lose the answer to the commit of the first reaction; whatever was known of it, in the end all is done."""
    bus.add_subscriber(bill, OrderPlaced, name="bill", transactional=True, retry=Retry(attempts=3, delay=0))
    async with bus:
        await bus.publish(OrderPlaced("o-0"))
        await bus.drain(timeout=30)
        shop.proxy.cut(on=commit)
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain(timeout=30)
        assert shop.proxy.resets >= 1
        await bus.publish(OrderPlaced("o-2"))
        await bus.drain(timeout=30)
        stats = (await bus.stats())["bill"]
    assert sorted(shop.bills()) == ["o-0", "o-1", "o-2"]
    assert (stats.dead, stats.backlog, stats.in_flight, stats.retrying) == (0, 0, 0, 0)


@pytest.mark.parametrize("awaited", [True, False])
async def test_a_reaction_beside_its_delivery_has_one_effect(shop: Shop, awaited: bool) -> None:
    def bill(event: OrderPlaced, context: DeliveryContext) -> None:
        context.tx.execute(shop.insert(event.order_id))

    async def bill_async(event: OrderPlaced, context: DeliveryContext) -> None:
        await context.tx.execute(shop.insert(event.order_id))

    bus = Bus(shop.proxy.url, namespace=shop.namespace)
    await reacted(shop, bus, bill_async if awaited else bill, commit=b".done(")


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind.dialect == "postgresql"], ids=str)
async def test_a_reaction_with_a_mark_has_one_effect(shop: Shop, kind: Kind) -> None:
    def bill(event: OrderPlaced, context: DeliveryContext) -> None:
        kind.execute(context.tx, shop.insert(event.order_id))

    async def bill_async(event: OrderPlaced, context: DeliveryContext) -> None:
        await kind.execute(context.tx, shop.insert(event.order_id))

    async with kind.open(shop.proxy.url) as source:
        bus = Bus("memory://", namespace=shop.namespace, transactions=source)
        await reacted(shop, bus, bill_async if kind.awaited else bill)


@pytest.mark.parametrize("client", ["psycopg", "asyncpg"])
async def test_whoever_does_not_know_publishes_again_with_the_same_id(
    shop: Shop, postgres_url: str, client: str
) -> None:
    """The order and the event are both there, or neither is: here both, and the second publish adds nothing."""
    got: list[str] = []
    bus = Bus(postgres_url, namespace=shop.namespace)
    bus.add_subscriber(lambda event: got.append(event.order_id), OrderPlaced, name="bill")
    event_id = uuid4()
    async with bus:
        connection: Any
        for number in range(2):
            if client == "psycopg":
                connection = await psycopg.AsyncConnection.connect(shop.proxy.url)
            else:
                connection = await asyncpg.connect(shop.proxy.url)
            if number == 0:
                shop.proxy.cut(on=b"COMMIT")
                with pytest.raises((psycopg.OperationalError, asyncpg.PostgresConnectionError), match=r"closed|reset"):
                    await place(shop, bus, connection, event_id)
            elif not shop.bills():
                await place(shop, bus, connection, event_id)
            else:
                await bus.publish(OrderPlaced("o-1"), id=event_id)
            connection.terminate() if client == "asyncpg" else await connection.close()
        await bus.drain(timeout=30)
    assert shop.bills() == got == ["o-1"]


async def place(shop: Shop, bus: Bus, connection: Any, event_id: Any) -> None:
    async with bus.transaction(connection) as tx:
        await tx.execute(shop.insert("o-1"))
        await bus.publish(OrderPlaced("o-1"), within=tx, id=event_id)
