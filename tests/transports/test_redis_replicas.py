"""`wait_replicas=`: an event is accepted when replicas have it, or nobody knows, and no sooner.  FAULTS 39."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest
import redis

from postbus import Bus, ConfigError, PublishUnknown, event
from server_kinds import RedisKind
from servers import Server, own

SENT = UUID("01890000-0000-7000-8000-000000000001")


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@pytest.fixture
def replica(server: Server) -> Iterator[Server]:
    """A second server that has what the first one has."""
    for second in own(RedisKind()):
        with redis.Redis.from_url(second.url) as admin, redis.Redis.from_url(server.url) as first:
            first.config_set("repl-diskless-sync-delay", 0)
            admin.replicaof("127.0.0.1", str(server.port))
            _until_in_sync(first)
        yield second


def _until_in_sync(first: redis.Redis) -> None:
    """The first write may be a part of what a replica begins with; the second one it must follow."""
    for _ in range(2):
        first.incr("probe")
        assert first.execute_command("WAIT", 1, 10_000) == 1, "no replica is in sync"  # type: ignore[no-untyped-call]


@contextmanager
def paused(server: Server) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


async def test_what_a_replica_has_is_accepted(server: Server, replica: Server) -> None:
    async with Bus(f"{server.url}?wait_replicas=1") as bus:
        await bus.publish_many([OrderPlaced(f"o-{n}") for n in range(10)])
        with redis.Redis.from_url(replica.url) as second:
            assert second.xlen("{postbus/orders.order}:s") == 10


async def test_what_no_replica_confirms_is_not_known_to_be_stored(server: Server, replica: Server) -> None:
    async with Bus(f"{server.url}?wait_replicas=1", publish_timeout=1) as bus:
        bus.add_subscriber(print, OrderPlaced, name="printer")
        await bus.publish(OrderPlaced("first"))
        with paused(replica):
            with pytest.raises(PublishUnknown, match="0 of 1 replicas confirmed it within"):
                await bus.publish(OrderPlaced("second"), id=SENT)
            assert (await bus.stats())["printer"].backlog >= 1, "others are not held up"
        sent = await bus.publish(OrderPlaced("second"), id=SENT)
        assert sent.id == SENT
        with redis.Redis.from_url(replica.url) as second:
            assert second.xlen("{postbus/orders.order}:s") == 2


async def test_a_server_that_is_killed_and_its_replica_promoted_has_lost_nothing_accepted(
    server: Server, replica: Server
) -> None:
    accepted: list[str] = []
    async with Bus(f"{server.url}?wait_replicas=1", publish_timeout=5) as bus:

        async def go_on() -> None:
            while True:
                order = OrderPlaced(f"o-{len(accepted)}")
                await bus.publish(order)
                accepted.append(order.order_id)

        going = asyncio.ensure_future(go_on())
        async with asyncio.timeout(20):
            while len(accepted) < 200:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
        server.kill()
        await asyncio.gather(going, return_exceptions=True)
    with redis.Redis.from_url(replica.url) as second:
        second.replicaof("no", "one")
    handled: list[str] = []
    async with Bus(replica.url) as after:
        after.add_subscriber(lambda placed: handled.append(placed.order_id), OrderPlaced, name="l", start="earliest")
        await after.drain(timeout=20)
    assert set(accepted) <= set(handled)


async def test_more_replicas_than_there_are_is_said(server: Server, replica: Server) -> None:
    async with Bus(f"{server.url}?wait_replicas=2", publish_timeout=2) as bus:
        with pytest.raises(PublishUnknown, match="1 of 2 replicas"):
            await bus.publish(OrderPlaced("one"))


async def test_waiting_for_the_disk(server: Server, redis_server: Server) -> None:
    with pytest.raises(ConfigError, match="cannot wait for its disk"):
        async with Bus(f"{server.url}?wait_disk=true"):
            pass
    async with Bus(f"{redis_server.url}?wait_disk=true") as bus:
        await bus.publish(OrderPlaced("on disk"))
        with redis.Redis.from_url(redis_server.url) as admin:
            assert admin.xlen("{postbus/orders.order}:s") == 1
