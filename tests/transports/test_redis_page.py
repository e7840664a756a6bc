"""What docs/redis.md says of keys and of rights on a cluster is so."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from postbus import Bus, Retry, event
from postbus.recording import Record, place_at
from postbus.transports.redis import RedisTransport
from redis_servers import Cluster, clustered
from servers import Server

PAGE = (Path(__file__).parents[2] / "docs" / "redis.md").read_text("utf-8")


@event("orders.order.placed", key="order_id", partitions=2)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@event("visits.page.seen")
@dataclass(frozen=True)
class PageSeen:
    path: str


def documented() -> list[re.Pattern[str]]:
    """The names of the table of keys."""
    table = PAGE.partition("| key | type | holds |")[2].partition("\n\n")[0]
    found: list[re.Pattern[str]] = []
    for row in table.splitlines()[2:]:
        first, *more = re.findall(r"`([^`]+)`", row.split("|")[1])
        names = [first, *(first.rpartition(":")[0] + name if name.startswith(":") else name for name in more)]
        for name in names:
            text = re.escape(name).replace(r"\{ns\}", r"\{postbus\}").replace(r"\{ns/topic\}", r"\{postbus/[^}]+\}")
            found.append(re.compile(text.replace(":N", r":\d+").replace(":K", r":[a-z-]+")))
    return found


def shop(url: str) -> Bus:
    """A bus that makes use of everything."""
    bus = Bus(url, retain=3600, lease=1.2)

    async def work(happened: OrderPlaced | PageSeen) -> None:
        text = happened.path if isinstance(happened, PageSeen) else happened.order_id
        if text == "long":
            await asyncio.sleep(1.8)
        if text == "bad":
            raise ValueError(text)

    retry = Retry(attempts=2, delay=0.2, jitter=0)
    bus.add_subscriber(work, OrderPlaced, PageSeen, name="plain", retry=retry)
    bus.add_subscriber(work, OrderPlaced, PageSeen, name="ordered", ordered=True, on_bury="park", retry=retry)
    return bus


async def busy(bus: Bus) -> None:
    """All that a bus does."""
    async with bus.worker():
        await bus.publish_many([OrderPlaced(key) for key in ("one", "bad", "bad", "long", "long", "two", "three")])
        await bus.publish_many([PageSeen(path) for path in ("/", "bad", "long")], delay=0.1)
        await bus.publish(PageSeen("/strange"), id=uuid4())
        async with asyncio.timeout(20):
            while (await bus.stats()).dead < 5:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.02)


async def vanish(bus: Bus) -> None:
    """A worker takes an event, and is never seen again; and something is remembered."""
    transport = bus.transport
    assert isinstance(transport, RedisTransport)
    await bus.publish(PageSeen("/held"))
    assert (await transport.claim("plain", owner="gone", limit=100, lease=0.05)).deliveries
    await asyncio.sleep(0.1)
    assert (await transport.claim("plain", owner="next", limit=100, lease=0.05)).suspects
    await transport.record([Record("action", place_at(time.time(), "-1"), "somebody", b"did something")])


async def test_every_key_is_in_the_table(server: Server, admin: redis.Redis) -> None:
    seen: set[str] = set()
    bus = shop(server.url)
    async with bus:
        work = asyncio.ensure_future(busy(bus))
        while not work.done():
            seen |= {key.decode() for key in admin.scan_iter(count=1000)}
            await asyncio.sleep(0.005)
        await work
        await vanish(bus)
        seen |= {key.decode() for key in admin.scan_iter(count=1000)}
    names = documented()
    assert not [key for key in sorted(seen) if not any(name.fullmatch(key) for name in names)]
    unseen = [name.pattern for name in names if not any(name.fullmatch(key) for key in seen)]
    assert unseen == [re.escape("{postbus}:bell")]  # which is a channel
    assert len(seen) > 30


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with clustered() as made:
        yield made


async def test_the_documented_rights_suffice_on_a_cluster(cluster: Cluster) -> None:
    rights = re.search(r"^ACL SETUSER bus .*?(?=^```)", PAGE, re.MULTILINE | re.DOTALL)
    more = re.search(r"^On a cluster, `([^`]+)` are needed too, and the channels `([^`]+)`", PAGE, re.MULTILINE)
    assert rights is not None
    assert more is not None
    words = [word for word in rights[0].split() if word != "-@dangerous"]
    for n in range(len(cluster.servers)):
        cluster.asked(n, *words, more[2], "-@dangerous", *more[1].split())
    bus = shop(cluster.url.replace("redis+cluster://", "redis+cluster://bus:secret@"))
    async with bus:
        await busy(bus)
        assert await bus.dead.replay("plain") == 3
