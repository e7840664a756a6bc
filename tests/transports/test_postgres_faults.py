"""PostgreSQL goes away, freezes and comes back; and what the transport asks of a server and a URL."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from postbus.address import Address, Settings
from postbus.delivery import Ack
from postbus.envelope import Envelope, new_id
from postbus.errors import ConfigError, TransportBroken, TransportError
from postbus.transport import Duplicate, Outgoing, Refused, Settled, Stored, SubscriptionSpec, Transport, Unknown
from postbus.transports.postgres import connect
from servers import Server

RECEIPTS = SubscriptionSpec(name="receipts", wants=("orders.>",))


def sealed() -> Outgoing:
    micros = time.time_ns() // 1000
    return Outgoing(Envelope(new_id(), "orders.order.placed", "orders.order", None, micros, 1, "text/plain", b"x"))


def made(url: str, options: str = "", **settings: Any) -> Transport:
    return connect(Address.parse(url + options), Settings(**{"namespace": f"t{uuid4().hex[:12]}"} | settings))


@pytest.fixture
async def transport(postgres_server: Server) -> AsyncIterator[Transport]:
    opened = made(postgres_server.url, "?timeout=1")
    await opened.open()
    await opened.declare([RECEIPTS])
    yield opened
    await opened.close()


async def test_events_go_on_when_the_server_is_back(transport: Transport, postgres_server: Server) -> None:
    first = sealed()
    assert [type(result) for result in await transport.append([first])] == [Stored]
    postgres_server.kill()
    second = sealed()
    (lost,) = await transport.append([second])
    assert isinstance(lost, Unknown | Refused)
    (refused,) = await transport.append([second])
    assert isinstance(refused, Refused)
    with pytest.raises(TransportError):
        await transport.claim("receipts", owner="a", limit=1, lease=30)
    postgres_server.start()
    results = await transport.append([first, second])
    assert [type(result) for result in results] == [Duplicate, Stored]
    claimed = await transport.claim("receipts", owner="a", limit=10, lease=30)
    assert len(claimed.deliveries) == 2
    settled = await transport.settle([(delivery, Ack()) for delivery in claimed.deliveries])
    assert settled == [Settled(), Settled()]


async def test_what_is_refused_behind_the_commit_makes_no_stored_event_a_refused_one(transport: Transport) -> None:
    transport._bell._channel = "x" * 100  # type: ignore[attr-defined]  # longer than a channel's name can be
    assert await transport.append([sealed()]) == [Stored(1)]
    assert len((await transport.claim("receipts", owner="a", limit=10, lease=30)).deliveries) == 1


async def test_a_frozen_server_holds_nobody_for_longer_than_the_timeout(
    transport: Transport, postgres_server: Server
) -> None:
    await transport.append([sealed()])
    (delivery,) = (await transport.claim("receipts", owner="a", limit=1, lease=30)).deliveries
    renewer = transport.renewer()
    assert await asyncio.to_thread(renewer.renew, [delivery], 30.0) == []
    postgres_server.pause()
    try:
        async with asyncio.timeout(20):
            (result,) = await transport.append([sealed()])
            assert isinstance(result, Unknown | Refused)
            with contextlib.suppress(TransportError):  # where it finds no connection to send it on
                assert [type(result) for result in await transport.settle([(delivery, Ack())])] == [Unknown]
            with pytest.raises(TransportError):
                await asyncio.to_thread(renewer.renew, [delivery], 30.0)
    finally:
        postgres_server.resume()
    await asyncio.to_thread(renewer.renew, [delivery], 30.0)
    renewer.close()


async def test_a_bell_is_heard_again_after_the_server_was_away(transport: Transport, postgres_server: Server) -> None:
    other = connect(Address.parse(postgres_server.url), transport._settings)  # type: ignore[attr-defined]
    await transport.wait(["receipts"], 0.05)
    postgres_server.restart()
    await other.open()
    async with asyncio.timeout(20):
        while await transport.wait(["receipts"], 0.3) == set():
            await other.append([sealed()])
    await other.close()


async def test_a_schema_that_is_somebody_elses_is_left_alone(postgres_url: str) -> None:
    namespace = f"t{uuid4().hex[:12]}"
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"CREATE SCHEMA {namespace}".encode())
        await connection.execute(f"CREATE TABLE {namespace}.orders (id integer)".encode())
    with pytest.raises(ConfigError, match="choose another namespace"):
        await made(postgres_url, namespace=namespace).open()


async def test_a_schema_of_a_newer_postbus_is_refused(postgres_url: str) -> None:
    namespace = f"t{uuid4().hex[:12]}"
    first = made(postgres_url, namespace=namespace)
    await first.open()
    await first.close()
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"UPDATE {namespace}.meta SET format = 99".encode())
    with pytest.raises(TransportBroken, match="upgrade postbus"):
        await made(postgres_url, namespace=namespace).open()


async def test_without_listening_nothing_is_prepared_and_everything_arrives(postgres_url: str) -> None:
    transport = made(postgres_url, "?prepare=off&listen=off")
    await transport.open()
    await transport.declare([RECEIPTS])
    for _ in range(10):
        await transport.append([sealed()])
        claimed = await transport.claim("receipts", owner="a", limit=10, lease=30)
        assert len(claimed.deliveries) == 1
        assert await transport.settle([(claimed.deliveries[0], Ack())]) == [Settled()]
    await transport.close()


@pytest.mark.parametrize(
    ("options", "namespace", "match"),
    [
        ("?sslmod=require", "shop", "no option 'sslmod'"),
        ("?pool=1", "shop", "pool"),
        ("?listen=maybe", "shop", "'on' or 'off'"),
        ("?timeout=0", "shop", "above 0"),
        ("", "public", "schema of its own"),
        ("", "pg_shop", "schema of its own"),
        ("", "n" * 64, "63 characters"),
    ],
)
def test_what_makes_no_sense_is_refused(options: str, namespace: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        made("postgresql://me:secret@127.0.0.1/shop", options, namespace=namespace)
