"""Older and newer releases of postbus beside each other on one Redis.  FAULTS 15."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
import redis
from redis_ground import STREAM, claim, declare, keys, opened, publish

from postbus.delivery import Ack
from postbus.errors import TransportBroken
from postbus.transport import DeadQuery, Settled
from postbus.transports.redis import RedisTransport, reading
from servers import Server

REGISTRY = "{postbus}:registry"
NEWER = (
    [2, b"\0" * 16, 0, 1, "application/json", b"{}"],
    [2, {"a layout": "that nobody knows yet"}],
)


def write(admin: redis.Redis, envelope: object, **more: str | bytes) -> None:
    packed = msgspec.msgpack.encode(envelope)
    admin.xadd(STREAM, {"n": "orders.order.placed", "k": "k", "e": packed, **more})


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("envelope", NEWER, ids=["the same layout", "another layout"])
async def test_an_event_of_a_newer_format_is_left_for_newer_workers(
    transport: RedisTransport, admin: redis.Redis, envelope: object, ordered: bool
) -> None:
    await declare(transport, ordered=ordered, topics=("orders.order",))
    await publish(transport, "known")
    write(admin, envelope)
    (known,) = await claim(transport)
    assert await claim(transport) == []
    (stats,) = await transport.stats()
    assert (stats.retrying, stats.in_flight, stats.dead) == (1, 1, 0)
    assert isinstance((await transport.settle([(known, Ack())]))[0], Settled)


async def test_an_event_that_no_worker_learned_to_read_is_a_dead_letter_in_the_end(
    transport: RedisTransport, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_LEFT_FOR_NEWER", 0.6)
    await declare(transport, topics=("orders.order",))
    write(admin, NEWER[0])
    async with asyncio.timeout(10):
        while not (letters := await transport.dead("receipts", DeadQuery())):
            assert await claim(transport) == []
            await asyncio.sleep(0.05)
    assert "format 2" in letters[0].reason
    assert letters[0].attempts == 0


async def test_fields_that_a_newer_release_adds_are_passed_over(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport, topics=("orders.order",))
    body = [1, b"\1" * 16, 0, 1, "application/json", b"{}", None, None, "new", 42]
    write(admin, body)
    write(admin, [*body[:1], b"\2" * 16, *body[2:]], d="0", z="another field")
    assert keys(await claim(transport)) == ["k", "k"]


@pytest.mark.parametrize("due", ["soon", "", "inf", "1e99", "-5", "0x10", "9" * 30])
async def test_a_due_time_that_is_none_delays_nothing(transport: RedisTransport, admin: redis.Redis, due: str) -> None:
    await declare(transport, topics=("orders.order",))
    body = [1, b"\1" * 16, 0, 1, "application/json", b"{}"]
    for number in range(2):  # by the script, and without it
        write(admin, [*body[:1], bytes([number]) * 16, *body[2:]], d=due)
        (found,) = await claim(transport)
        await transport.settle([(found, Ack())])
        await claim(transport)


async def test_keys_of_a_newer_format_are_left_alone(server: Server, admin: redis.Redis) -> None:
    async with opened(server.url) as transport:
        await declare(transport)
    admin.hset(REGISTRY, "format", "2")
    before = admin.hgetall(REGISTRY)
    async with opened(server.url) as older:
        with pytest.raises(TransportBroken, match="format 2"):
            await declare(older)
    assert admin.hgetall(REGISTRY) == before


async def test_an_older_worker_holds_nothing_back_from_a_newer_one(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    """A newer release adds to what is kept: the older one leaves it where it is."""
    await declare(transport)
    await publish(transport, "one")
    admin.hset("{postbus/orders.order}:1:c", "of-a-newer-release", "kept")
    admin.hset(REGISTRY, "of-a-newer-release", "kept")
    record = msgspec.json.decode(admin.hget("{postbus}:subscriptions", "1") or b"")
    admin.hset("{postbus}:subscriptions", "1", msgspec.json.encode({**record, "of_a_newer_release": 1}))
    (found,) = await claim(transport)
    await transport.settle([(found, Ack())])
    await transport.pause("receipts")
    await transport.resume("receipts")
    assert admin.hget("{postbus/orders.order}:1:c", "of-a-newer-release") == b"kept"
    assert admin.hget(REGISTRY, "of-a-newer-release") == b"kept"
