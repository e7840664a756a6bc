"""Sentinel: whom a bus asks for its server, and what it says when nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
import redis

from postbus import AccessRefused, Bus, ConfigError, PublishFailed, PublishUnknown, TransportError, event
from proxy import Proxy
from redis_servers import Watched, until, watched
from server_kinds import RedisKind
from servers import own


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@pytest.fixture(scope="module")
def place() -> Iterator[Watched]:
    with watched(auth="canary", server_auth="canary2") as made:
        yield made


async def test_a_bus_finds_the_primary_with_passwords_for_both(place: Watched) -> None:
    bus = Bus(place.url, namespace="finds")
    done = asyncio.Event()

    @bus.subscriber(OrderPlaced, name="receipts")
    async def receipts(placed: OrderPlaced) -> None:
        done.set()

    async with bus, bus.worker():
        await bus.publish(OrderPlaced("o-1"))
        async with asyncio.timeout(20):
            await done.wait()
    with place.client(place.primary()) as client:
        assert client.exists("{finds}:registry") == 1
    assert "canary" not in repr(bus)


async def test_a_sentinel_that_stands_still_is_passed_over(place: Watched) -> None:
    place.sentinels[0].pause()
    try:
        async with Bus(place.url, namespace="passes", publish_timeout=20) as bus:
            await bus.publish(OrderPlaced("o-1"))
    finally:
        place.sentinels[0].resume()


async def test_a_name_that_is_given_to_the_replica_is_followed_though_the_old_server_lives() -> None:
    """As managed services do it: nothing ends the connections to what is a replica now, but its refusals."""
    for old, new in zip(own(RedisKind()), own(RedisKind()), strict=True):
        with Proxy(old.url) as name, redis.Redis(port=old.port) as first, redis.Redis(port=new.port) as second:
            second.replicaof("127.0.0.1", str(old.port))
            bus = Bus(name.url, lease=0.3, publish_timeout=2)
            handled: list[str] = []
            done = asyncio.Event()

            @bus.subscriber(OrderPlaced, name="receipts")
            async def receipts(placed: OrderPlaced) -> None:
                handled.append(placed.order_id)  # noqa: B023 - there is one pair
                done.set()  # noqa: B023

            async with bus, bus.worker():
                await bus.publish(OrderPlaced("before"))
                await done.wait()
                until(lambda: in_sync(first))
                second.replicaof("NO", "ONE")
                name.lead_to(new.url)
                first.replicaof("127.0.0.1", str(new.port))
                done.clear()
                event_id = uuid4()
                async with asyncio.timeout(20):
                    while not done.is_set():
                        try:
                            await bus.publish(OrderPlaced("after"), id=event_id)
                        except (PublishFailed, PublishUnknown):
                            await asyncio.sleep(0.02)
                        else:
                            await done.wait()
            assert handled[:2] == ["before", "after"]


def in_sync(primary: redis.Redis) -> bool:
    about: Any = primary.info("replication")
    return bool(about.get("slave0", {}).get("offset") == about["master_repl_offset"])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (("mymaster", "other"), TransportError, "no service 'other'"),
        (("sentinel_password=canary", "sentinel_password=wrong"), AccessRefused, "refuses this user or password"),
        (("&sentinel_password=canary", ""), AccessRefused, "refuses this user or password"),
        ((":canary2@", ":wrong@"), AccessRefused, "refuses this user or password"),
    ],
)
async def test_who_is_not_let_in_hears_by_whom(
    place: Watched, change: tuple[str, str], error: type[Exception], says: str
) -> None:
    bus = Bus(place.url.replace(*change))
    with pytest.raises(error, match=says) as raised:
        await bus.__aenter__()
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://h:1", "names no service"),
        ("redis+sentinel:///0?service=x", "names no host"),
        ("redis+sentinel://a:1,b:x/0?service=x", "names the host 'b:x'"),
        ("redis+sentinel://a:1/zero?service=x", "expected the number of a database"),
        ("redis+sentinel://a:1/0?service=x&servce=y", "no option 'servce'"),
        ("redis://a:1/0?service=x", "no option 'service'"),
    ],
)
def test_a_wrong_url_is_refused_at_once(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Bus(url)
