"""Events published within a psycopg transaction share its fate."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest

from postbus.address import Address, Settings
from postbus.drivers import Script, driver_of, perform
from postbus.enlisting import Enlisting
from postbus.envelope import Envelope, new_id
from postbus.errors import ConfigError
from postbus.transport import Append, Duplicate, Outgoing, Refused, Stored, SubscriptionSpec
from postbus.transports.postgres import PostgresTransport, connect

T = TypeVar("T")


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


def within(connection: psycopg.Connection[Any], script: Script[T]) -> T:
    driver = driver_of(connection)
    assert driver is not None
    return perform(driver, connection, script)


def append_within(
    transport: PostgresTransport, connection: psycopg.Connection[Any], items: Sequence[Outgoing]
) -> Sequence[Append]:
    return within(connection, transport.append_within(items))


def surviving(transport: PostgresTransport, connection: psycopg.Connection[Any], ids: Sequence[bytes]) -> Set[bytes]:
    return within(connection, transport.surviving(ids))


async def claimed(transport: PostgresTransport) -> list[bytes]:
    found = await transport.claim("receipts", owner="a", limit=100, lease=30)
    return [delivery.envelope.id_bytes for delivery in found.deliveries]


async def test_an_event_is_there_when_its_transaction_commits(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    assert isinstance(transport, Enlisting)
    item = sealed()
    assert append_within(transport, connection, [item, item]) == [Stored(1), Duplicate()]
    assert await claimed(transport) == []
    connection.commit()
    assert await claimed(transport) == [item.envelope.id_bytes]


async def test_an_event_goes_with_the_rollback_and_its_id_is_free_again(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    item = sealed()
    append_within(transport, connection, [item])
    connection.rollback()
    assert await claimed(transport) == []
    assert [type(result) for result in await transport.append([item])] == [Stored]


async def test_a_savepoint_takes_its_own_events_along(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    kept, lost = sealed(), sealed()
    append_within(transport, connection, [kept])
    with connection.transaction(force_rollback=True):
        append_within(transport, connection, [lost])
    ids = [kept.envelope.id_bytes, lost.envelope.id_bytes]
    assert surviving(transport, connection, ids) == {ids[0]}
    connection.commit()
    assert await claimed(transport) == ids[:1]


async def test_what_is_declared_meanwhile_is_heard_of(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    assert append_within(transport, connection, [sealed()]) == [Stored(1)]
    await transport.declare([SubscriptionSpec(name="stock", wants=("orders.>",))])
    assert append_within(transport, connection, [sealed()]) == [Stored(2)]
    connection.rollback()


async def test_an_open_transaction_holds_up_nobody_else(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    await transport.declare([SubscriptionSpec(name="receipts", wants=("orders.>",), ordered=True)])
    held, other = sealed(key="a"), sealed(key="a")
    append_within(transport, connection, [held])
    assert [type(result) for result in await transport.append([other])] == [Stored]
    assert await claimed(transport) == [other.envelope.id_bytes]
    connection.commit()
    assert await claimed(transport) == []  # behind its key now


async def test_another_database_is_refused(transport: PostgresTransport, postgres_url: str) -> None:
    with (
        psycopg.connect(postgres_url.rpartition("/")[0] + "/template1") as elsewhere,
        pytest.raises(ConfigError, match="not to the database"),
    ):
        append_within(transport, elsewhere, [sealed()])


async def test_what_no_column_can_hold_is_refused(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    (result,) = append_within(transport, connection, [sealed(key="\ud800")])
    assert isinstance(result, Refused)


async def test_what_was_stored_is_known_though_others_were_declared_since(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    item = sealed()
    append_within(transport, connection, [item])
    await transport.declare([SubscriptionSpec(name="stock", wants=("orders.>",))])
    assert append_within(transport, connection, [item]) == [Duplicate()]
    connection.rollback()


async def test_a_pipeline_of_the_caller_is_joined(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    items = [sealed() for _ in range(3)]
    with connection.pipeline():
        assert [append_within(transport, connection, [item]) for item in items] == 3 * [[Stored(1)]]
        connection.commit()
    assert await claimed(transport) == [item.envelope.id_bytes for item in items]


async def test_threads_may_publish_on_one_connection(
    transport: PostgresTransport, connection: psycopg.Connection[Any]
) -> None:
    append_within(transport, connection, [sealed()])

    def publish(_: int) -> Sequence[Append]:
        return append_within(transport, connection, [sealed()])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(publish, range(200))) == 200 * [[Stored(1)]]
    connection.rollback()
