"""A bus with a running worker on Redis goes on by itself, whatever happens to the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from postbus import Bus, PublishFailed, PublishUnknown, event
from postbus.transports.redis.road import RedisTransport
from server_kinds import RedisKind
from servers import own

# GUARANTEES 15: work goes on within 5 s of the server's return; the rest is for a busy machine.
WITHIN = 15.0


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


class Shop:
    """A bus whose worker notes what it handled."""

    def __init__(self, url: str) -> None:
        self.bus = Bus(url, publish_timeout=2)
        self.handled: list[str] = []
        self._news = asyncio.Condition()
        self.bus.add_subscriber(self._plain, OrderPlaced, name="plain")
        self.bus.add_subscriber(self._ordered, OrderPlaced, name="ordered", ordered=True)

    async def _plain(self, placed: OrderPlaced) -> None:
        await self._note(f"plain {placed.order_id}")

    async def _ordered(self, placed: OrderPlaced) -> None:
        await self._note(f"ordered {placed.order_id}")

    async def _note(self, text: str) -> None:
        async with self._news:
            self.handled.append(text)
            self._news.notify_all()

    async def publish(self, order_id: str) -> None:
        """Publish, as often as it takes."""
        async with asyncio.timeout(WITHIN):
            sent = None
            while True:
                try:
                    await self.bus.publish(OrderPlaced(order_id), id=sent)
                except (PublishFailed, PublishUnknown):
                    await asyncio.sleep(0.05)
                else:
                    return

    async def until(self, *order_ids: str) -> None:
        """Wait until both subscribers have handled these."""
        wanted = {f"{name} {order_id}" for name in ("plain", "ordered") for order_id in order_ids}
        async with asyncio.timeout(WITHIN), self._news:
            await self._news.wait_for(lambda: wanted <= set(self.handled))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Shop]:
    shop = Shop(url)
    async with shop.bus, shop.bus.worker():
        yield shop


async def test_work_goes_on_after_a_flush() -> None:
    for server in own(RedisKind()):
        async with opened(server.url) as shop:
            await shop.publish("before")
            await shop.until("before")
            with redis.Redis.from_url(server.url) as admin:
                admin.flushall()
            await shop.publish("after")
            await shop.until("after")


async def test_work_goes_on_after_its_groups_were_destroyed() -> None:
    for server in own(RedisKind()):
        async with opened(server.url) as shop:
            await shop.publish("before")
            await shop.until("before")
            with redis.Redis.from_url(server.url) as admin:
                for group in admin.xinfo_groups("{postbus/orders.order}:s"):
                    admin.xgroup_destroy("{postbus/orders.order}:s", group["name"])
            await shop.publish("after")
            await shop.until("after")


async def test_work_goes_on_after_the_server_was_killed() -> None:
    for server in own(RedisKind(durable=True)):
        async with opened(server.url) as shop:
            for turn in range(2):
                await shop.publish(f"{turn} before")
                server.kill()
                server.start()
                await shop.publish(f"{turn} after")
                await shop.until(f"{turn} before", f"{turn} after")
            stats = await shop.bus.stats()
            assert {name: one.dead for name, one in stats.items()} == {"plain": 0, "ordered": 0}


async def test_work_goes_on_after_the_server_stood_still() -> None:
    for server in own(RedisKind()):
        async with opened(server.url + "?timeout=0.5") as shop:
            await shop.publish("before")
            server.pause()
            await asyncio.sleep(1.0)
            server.resume()
            await shop.publish("after")
            await shop.until("before", "after")


def test_sync_callers_publish_too() -> None:
    for server in own(RedisKind()):
        bus = Bus(server.url)
        bus.add_subscriber(print, OrderPlaced, name="printer")
        with bus:
            sent = [bus.publish_sync(OrderPlaced(f"o-{n}")) for n in range(3)]
            assert len({envelope.id for envelope in sent}) == 3
            with redis.Redis.from_url(server.url) as admin:
                assert admin.xlen("{postbus/orders.order}:s") == 3


async def test_a_worker_without_subscribers_relays_and_waits_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[Collection[str]] = []
    wait = RedisTransport.wait

    async def noted(self: RedisTransport, names: Collection[str], timeout: float) -> Set[str]:
        waited.append(names)
        await asyncio.sleep(0)
        return await wait(self, names, timeout)

    monkeypatch.setattr(RedisTransport, "wait", noted)
    for server in own(RedisKind()):
        relaying = Bus(server.url, outbox=f"sqlite:///{tmp_path / 'shop.db'}")
        async with opened(server.url) as shop, relaying.worker():
            await relaying.publish(OrderPlaced("o-1"))
            await shop.until("o-1")
    assert all(waited)
