"""Events published within a psycopg transaction share its fate."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from postbus.address import Address, Settings
from postbus.envelope import Envelope, new_id
from postbus.errors import ConfigError
from postbus.transport import Duplicate, Enlisting, Outgoing, Refused, Stored, SubscriptionSpec
from postbus.transports.postgres import PostgresTransport, connect


def sealed(name: str = "orders.order.placed", key: str | None = None, body: bytes = b"x") -> Outgoing:
    return Outgoing(Envelope(new_id(), name, "orders.order", key, time.time_ns() // 1000, 1, "text/plain", body))


@pytest.fixture
async def transport(postgres_url: str) -> AsyncIterator[PostgresTransport]:
    opened = connect(Address.parse(postgres_url), Settings(namespace=f"t{uuid4().hex[:12]}"))
    await opened.open()
    await opened.declare([SubscriptionSpec(name="receipts", wants=("orders.>",))])
    yield opened
    await opened.close()


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url) as opened:
        yield opened


async def claimed(transport: PostgresTransport) -> list[bytes]:
    found = await transport.claim("receipts", owner="a", limit=100, lease=30)
    return [delivery.envelope.id_bytes for delivery in found.deliveries]


async def test_an_event_is_there_when_its_transaction_commits(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    assert isinstance(transport, Enlisting)
    assert transport.enlists(connection)
    item = sealed()
    assert transport.append_within(connection, [item, item]) == [Stored(1), Duplicate()]
    assert await claimed(transport) == []
    connection.commit()
    assert await claimed(transport) == [item.envelope.id_bytes]


async def test_an_event_goes_with_the_rollback_and_its_id_is_free_again(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    item = sealed()
    transport.append_within(connection, [item])
    connection.rollback()
    assert await claimed(transport) == []
    assert [type(result) for result in await transport.append([item])] == [Stored]


async def test_a_savepoint_takes_its_own_events_along(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    kept, lost = sealed(), sealed()
    transport.append_within(connection, [kept])
    with connection.transaction(force_rollback=True):
        transport.append_within(connection, [lost])
    ids = [kept.envelope.id_bytes, lost.envelope.id_bytes]
    assert transport.surviving(connection, ids) == {ids[0]}
    connection.commit()
    assert await claimed(transport) == ids[:1]


async def test_what_is_declared_meanwhile_is_heard_of(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    assert transport.append_within(connection, [sealed()]) == [Stored(1)]
    await transport.declare([SubscriptionSpec(name="stock", wants=("orders.>",))])
    assert transport.append_within(connection, [sealed()]) == [Stored(2)]
    connection.rollback()


async def test_an_open_transaction_holds_up_nobody_else(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    await transport.declare([SubscriptionSpec(name="receipts", wants=("orders.>",), ordered=True)])
    held, other = sealed(key="a"), sealed(key="a")
    transport.append_within(connection, [held])
    assert [type(result) for result in await transport.append([other])] == [Stored]
    assert await claimed(transport) == [other.envelope.id_bytes]
    connection.commit()
    assert await claimed(transport) == []  # behind its key now


async def test_autocommit_and_another_database_are_refused(
    transport: PostgresTransport, connection: psycopg.Connection[Any], postgres_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as careless:
        with pytest.raises(ConfigError, match="autocommit"):
            transport.append_within(careless, [sealed()])
        with careless.transaction():
            assert transport.append_within(careless, [sealed()]) == [Stored(1)]
        with (
            psycopg.connect(postgres_url.rpartition("/")[0] + "/template1") as elsewhere,
            pytest.raises(ConfigError, match="not to the database"),
        ):
            transport.append_within(elsewhere, [sealed()])


async def test_what_no_column_can_hold_is_refused(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    (result,) = transport.append_within(connection, [sealed(key="\ud800")])
    assert isinstance(result, Refused)
