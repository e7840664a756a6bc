"""A Redis that is full refuses publishes, and everything that drains it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest
import redis
from redis_ground import BOOM, STREAM, claim, declare, on_the_oldest_too, opened, publish, sealed

from postbus import Bus, TransportFull, event
from postbus.delivery import Ack, Bury, Requeue
from postbus.transport import DeadQuery, Outgoing, Refused, Settled, SubscriptionSpec
from postbus.transports.redis import RedisTransport
from servers import Server

pytestmark = on_the_oldest_too


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    note: str = ""


@contextmanager
def full(admin: redis.Redis, more: int = 0) -> Iterator[None]:
    """The server's limit is what it uses now, and a little more."""
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("maxmemory", admin.info("memory")["used_memory"] + more if more else 1)
    try:
        yield
    finally:
        admin.config_set("maxmemory", 0)


@asynccontextmanager
async def at_work(url: str, handled: list[str]) -> AsyncIterator[Bus]:
    bus = Bus(url, lease=1)

    @bus.subscriber(OrderPlaced, name="plain")
    async def plain(placed: OrderPlaced) -> None:
        handled.append(placed.order_id)

    @bus.subscriber(OrderPlaced, name="ordered", ordered=True)
    async def ordered(placed: OrderPlaced) -> None:
        handled.append(placed.order_id)

    async with bus, bus.worker():
        yield bus


async def until_full(publisher: Bus) -> int:
    """How many events were stored."""
    sent = 0
    while True:
        try:
            await publisher.publish(OrderPlaced(f"o-{sent}", "x" * 4000))
        except TransportFull as error:
            assert "maxmemory" in str(error)  # noqa: PT017 - how many were stored is asked for, too
            return sent
        sent += 1


@pytest.mark.timeout(120)
async def test_publishing_goes_on_when_workers_have_made_room(server: Server, admin: redis.Redis) -> None:
    handled: list[str] = []
    async with Bus(server.url) as publisher:
        async with at_work(server.url, handled):  # declares, and knows nothing of what follows
            pass
        with full(admin, more=3_000_000):
            sent = await until_full(publisher)
            assert sent > 100
            # A worker that starts only now declares, claims, renews, settles and beats.
            async with at_work(server.url, handled), asyncio.timeout(60):
                while len(handled) < 2 * sent:
                    assert (await publisher.health()).connected
                    await asyncio.sleep(0.02)
                assert [worker.state for worker in await _workers(publisher)] == ["running"]
                while True:
                    try:
                        await publisher.publish(OrderPlaced("room again"))
                    except TransportFull:
                        await asyncio.sleep(0.05)
                    else:
                        break
                while handled.count("room again") < 2:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.02)
            assert {name: one.dead for name, one in (await publisher.stats()).items()} == {"plain": 0, "ordered": 0}


async def _workers(bus: Bus) -> list[object]:
    return list(await bus.transport.workers())  # type: ignore[attr-defined]


async def test_everything_but_publishing_works_on_a_full_server(
    transport: RedisTransport, admin: redis.Redis, server: Server
) -> None:
    await declare(transport)
    await publish(transport, *(f"k{n}" for n in range(30)))
    held = await claim(transport)
    with full(admin):
        refused = await publish(transport, "too much")
        assert [type(result.error) for result in refused if isinstance(result, Refused)] == [TransportFull]
        renewer = transport.renewer()
        assert await asyncio.to_thread(renewer.renew, held, 20) == []
        renewer.close()
        outcomes = [Ack(), Requeue(0, BOOM), Bury("enough", BOOM)]
        results = await transport.settle([(one, outcomes[n % 3]) for n, one in enumerate(held)])
        assert {type(result) for result in results} == {Settled}
        again = await claim(transport)
        assert len(again) == 10
        await transport.settle([(one, Ack()) for one in again])
        letters = await transport.dead("receipts", DeadQuery())
        assert await transport.replay("receipts", [letters[0].id]) == 1
        assert await transport.discard("receipts", [letter.id for letter in letters[1:]]) == 9
        (stats,) = await transport.stats()
        assert (stats.backlog, stats.dead) == (1, 0)
        await transport._trimming.trim(["orders.order"], least=0, exact=True)
        assert admin.xlen(STREAM) == 0
        async with opened(server.url) as other:  # a worker of the same program starts
            await declare(other)
            assert len(await claim(other)) == 1
            (result,) = await other.append([Outgoing(sealed("of a process that knew nothing"))])
            assert isinstance(result, Refused)
            assert type(result.error) is TransportFull
        await transport.retire("receipts")


async def test_a_group_that_is_gone_is_made_again_on_a_full_server(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    spec = SubscriptionSpec(name="receipts", wants=("orders.>",))
    await transport.declare([spec])
    await publish(transport, "one")
    (group,) = admin.xinfo_groups(STREAM)
    admin.xgroup_destroy(STREAM, group["name"])
    with full(admin):
        assert len(await claim(transport)) == 1
