"""A bus on a client of redis-py's that the program has already made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from redis import asyncio as aredis
from redis.asyncio.sentinel import Sentinel
from redis.credentials import UsernamePasswordCredentialProvider

from postbus import AccessRefused, Bus, ConfigError, event
from postbus.transports.redis import using
from redis_servers import RedisWith
from servers import Server, own


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from own(RedisWith(options=("--requirepass", "canary")))


@pytest.fixture
def shop(request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    return request.node.name.partition("[")[0].replace("_", "-")[:60]


async def run_through(bus: Bus) -> list[str]:
    """Publish, and let a worker run it: that takes connections of all kinds."""
    handled: list[str] = []
    done = asyncio.Event()

    @bus.subscriber(OrderPlaced, name="receipts")
    async def receipts(placed: OrderPlaced) -> None:
        handled.append(placed.order_id)
        done.set()

    async with bus, bus.worker():
        await bus.publish(OrderPlaced("o-1"))
        async with asyncio.timeout(20):
            await done.wait()
    return handled


async def test_a_bus_connects_as_an_asyncio_client_does(server: Server, shop: str) -> None:
    async with aredis.Redis(port=server.port, password="canary", db=3, decode_responses=True) as client:
        assert await run_through(Bus(using(client), namespace=shop)) == ["o-1"]
        assert await client.exists(f"{{{shop}}}:registry") == 1, "in its database"
        assert await client.ping(), "and it is left as it was"


async def test_a_bus_connects_as_a_blocking_client_does(server: Server, shop: str) -> None:
    with redis.Redis(port=server.port, password="canary") as client:
        assert await run_through(Bus(using(client), namespace=shop)) == ["o-1"]


async def test_a_credential_provider_is_asked_for_each_connection(server: Server, shop: str) -> None:
    class Provider(UsernamePasswordCredentialProvider):
        asked = 0

        def get_credentials(self) -> tuple[str, str]:
            Provider.asked += 1
            return "default", "canary"

    async with aredis.Redis(port=server.port, credential_provider=Provider()) as client:
        assert await run_through(Bus(using(client), namespace=shop)) == ["o-1"]
    assert Provider.asked >= 3


def test_sync_callers_publish_by_a_client_too(server: Server, shop: str) -> None:
    with redis.Redis(port=server.port, password="canary") as client:
        bus = Bus(using(client), namespace=shop)
        bus.add_subscriber(print, OrderPlaced, name="receipts")
        with bus:
            bus.publish_sync(OrderPlaced("o-1"))
        assert client.xlen(f"{{{shop}/orders.order}}:s") == 1


async def test_a_client_with_a_wrong_password_is_refused_without_telling_it(server: Server) -> None:
    bus = Bus(using(aredis.Redis(port=server.port, password="canary2")))
    with pytest.raises(AccessRefused) as refused:
        await bus.__aenter__()
    assert "canary" not in str(refused.value) + repr(bus)
    assert str(server.port) in repr(bus)


def test_what_only_the_client_knows_is_refused() -> None:
    managed: Any = Sentinel  # redis-py gives it no types
    with pytest.raises(ConfigError, match=r"SentinelManagedConnection.*redis\+sentinel"):
        Bus(using(managed([("127.0.0.1", 1)]).master_for("mymaster")))
    with pytest.raises(ConfigError, match="redis_connect_func"):
        Bus(using(redis.Redis(redis_connect_func=print)))
    with pytest.raises(ConfigError, match="str is no client"):
        using("redis://")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("client", "shown"),
    [
        (redis.Redis(host="h", port=1, password="canary", db=2), "redis://h:1/2"),
        (aredis.Redis.from_url("rediss://me:canary@h:7"), "rediss://h:7/0"),
        (aredis.Redis(unix_socket_path="/run/r.sock"), "unix:///run/r.sock"),
    ],
)
def test_a_bus_says_where_its_client_leads(client: redis.Redis, shown: str) -> None:
    bus = Bus(using(client))
    assert repr(bus) == f"Bus('{shown}')"
