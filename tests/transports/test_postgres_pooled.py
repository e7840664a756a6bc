"""FAULTS 46: transactions through a pgbouncer in transaction mode, too; the suite runs there in test_postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from pgbouncer import PgbouncerKind
from postbus import Bus, DeliveryContext, event
from servers import own

EVENTS = 12  # more often than a client needs to think that preparing pays


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@pytest.fixture(scope="module")
def bouncer(postgres_url: str) -> Iterator[str]:
    kind = PgbouncerKind(behind=postgres_url)
    if kind.binary() is None:
        pytest.skip("no pgbouncer on this machine: apt-get install pgbouncer")
    for running in own(kind):
        yield running.url


class Bills(NamedTuple):
    """A table, looked at past the pooler."""

    admin: psycopg.Connection
    name: str

    def rows(self) -> list[str]:
        return [row[0] for row in self.admin.execute(f"SELECT name FROM {self.name} ORDER BY name".encode())]


@pytest.fixture
def bills(postgres_url: str) -> Iterator[Bills]:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        made = Bills(admin, f"bill_{uuid4().hex[:12]}")
        admin.execute(f"CREATE TABLE {made.name} (name text)".encode())
        yield made
        admin.execute(f"DROP TABLE {made.name}".encode())


@pytest.mark.parametrize("awaited", [True, False])
async def test_transactional_subscribers_run_once(bouncer: str, bills: Bills, awaited: bool) -> None:
    bus = Bus(bouncer, namespace=f"t{uuid4().hex[:12]}")

    def bill(event: OrderPlaced, context: DeliveryContext) -> None:
        context.tx.execute(f"INSERT INTO {bills.name} VALUES (%s)", (event.order_id,))

    async def bill_async(event: OrderPlaced, context: DeliveryContext) -> None:
        await context.tx.execute(f"INSERT INTO {bills.name} VALUES (%s)", (event.order_id,))

    bus.add_subscriber(bill_async if awaited else bill, OrderPlaced, name="bill", transactional=True)
    async with bus, bus.worker(), bus.worker():
        await bus.publish_many([OrderPlaced(f"{n:02}") for n in range(EVENTS)])
        await bus.drain(timeout=30)
    assert bills.rows() == [f"{n:02}" for n in range(EVENTS)]


async def opened(client: str, bouncer: str) -> Any:
    """As the clients' own manuals say for such a pooler."""
    url = bouncer.partition("?")[0]
    if client == "asyncpg":
        return await asyncpg.connect(url, statement_cache_size=0)
    return await psycopg.AsyncConnection.connect(url, prepare_threshold=None)


@pytest.mark.parametrize("client", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("outbox", [False, True], ids=["transport", "outbox"])
async def test_an_event_exists_if_its_transaction_commits(
    bouncer: str, bills: Bills, client: str, outbox: bool, tmp_path: Path
) -> None:
    got: list[str] = []
    namespace = f"t{uuid4().hex[:12]}"
    target = f"sqlite:///{tmp_path / 'events.db'}"
    bus = Bus(target, outbox=bouncer, namespace=namespace) if outbox else Bus(bouncer, namespace=namespace)
    bus.add_subscriber(lambda event: got.append(event.order_id), OrderPlaced, name="receipts")
    async with bus:
        connection = await opened(client, bouncer)
        for number in range(EVENTS):
            kept = number % 3 != 0
            try:
                async with bus.transaction(connection) as tx:
                    await tx.execute(f"INSERT INTO {bills.name} VALUES ('{number:02}')")
                    await bus.publish(OrderPlaced(f"{number:02}"), within=tx)
                    if not kept:
                        raise asyncio.CancelledError
            except asyncio.CancelledError:
                assert not kept
                if connection.is_closed() if client == "asyncpg" else connection.closed:
                    connection = await opened(client, bouncer)
        await connection.close()
        async with bus.worker():
            await bus.drain(timeout=30)
    assert sorted(got) == bills.rows() == [f"{n:02}" for n in range(EVENTS) if n % 3 != 0]
