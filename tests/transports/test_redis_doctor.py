"""What `doctor`, a starting worker and `strict=true` say of a Redis.  FAULTS 37, 43."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis_ground import STREAM, claim, declare, keys, on_the_oldest_too, opened, publish

from postbus import Bus, ConfigError, Retry, event
from postbus.doctor import examine
from postbus.finding import Finding
from postbus.inspection import inspectable
from postbus.transports.redis import RedisTransport
from servers import Server

PAGE = Path(__file__).parents[2] / "docs" / "redis.md"


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


def shop(url: str) -> Bus:
    bus = Bus(url)
    bus.add_subscriber(_seen, OrderPlaced, name="receipts")
    return bus


async def _seen(placed: OrderPlaced) -> None:
    """Nothing more to do."""


def limited(server: Server, admin: redis.Redis) -> str:
    """The URL of a user with the rights that the documentation calls sufficient, and no others."""
    command = re.search(r"^ACL SETUSER bus .*?(?=^```)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert command is not None
    admin.execute_command(*command[0].split())  # type: ignore[no-untyped-call]
    place = urlsplit(server.url)
    return f"redis://bus:secret@{place.hostname}:{place.port}/0"


async def findings(transport: RedisTransport) -> dict[str, Finding]:
    return {one.what: one for one in await transport.examine()}


async def test_a_server_without_persistence_that_evicts_is_named_for_both(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    admin.config_set("appendonly", "no")
    found = await findings(transport)
    assert found["eviction"].level == "error"
    assert "allkeys-lru" in found["eviction"].text
    assert found["persistence"].level == "warning"
    assert "appendonly" in found["persistence"].text


async def test_a_sound_server_has_nothing_against_it(redis_server: Server) -> None:
    async with opened(redis_server.url) as transport:
        await declare(transport)
        await publish(transport, "one")
        found = await transport.examine()
        assert {one.level for one in found} == {"ok"}, found
        assert {one.what for one in found} == {"server", "persistence", "eviction", "clock", "rights"}
        assert keys(await claim(transport)) == ["one"]
    async with Bus(f"{redis_server.url}?strict=true") as bus:
        assert (await bus.health()).connected


@pytest.mark.parametrize(
    ("setting", "value", "what"),
    [
        ("appendfsync", "no", "persistence"),
        ("maxmemory-policy", "volatile-lru", "eviction"),
        ("maxmemory", "1mb", "memory"),
    ],
)
async def test_each_setting_that_weakens_a_promise_is_found(
    redis_server: Server, setting: str, value: str, what: str
) -> None:
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.config_set(setting, value)
    async with opened(redis_server.url) as transport:
        found = await findings(transport)
    assert found[what].level == "warning"
    assert found[what].advice


async def test_a_group_of_nobody_is_named_with_how_to_be_rid_of_it(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    await declare(transport)
    await publish(transport, "one")
    admin.xgroup_create(STREAM, "somebody-else", "0")
    found = (await findings(transport))["topic orders.order"]
    assert found.level == "warning"
    assert found.advice.startswith(f"XGROUP DESTROY '{STREAM}' 'somebody-else'")


async def test_what_others_trimmed_is_an_error_of_its_subscription(server: Server, admin: redis.Redis) -> None:
    bus = shop(server.url)
    async with bus:
        await bus.publish_many([OrderPlaced(f"o-{n}") for n in range(5)])
        admin.xtrim(STREAM, maxlen=2, approximate=False)
        found = await examine(bus)
    assert any(one.level == "error" and one.text.startswith("3 events were removed") for one in found)


@on_the_oldest_too
async def test_a_user_who_may_not_look_is_told_so_and_nothing_fails(server: Server, admin: redis.Redis) -> None:
    url = limited(server, admin)
    async with opened(url) as transport:
        found = await findings(transport)
        assert {name: one.level for name, one in found.items()} == {
            "server": "note", "persistence": "note", "eviction": "note", "clock": "ok", "rights": "ok",
        }  # fmt: skip
        admin.execute_command("ACL", "SETUSER", "bus", "-xtrim", "-publish")  # type: ignore[no-untyped-call]
        lacks = (await findings(transport))["rights"]
        assert lacks.level == "error"
        assert "PUBLISH, XTRIM" in lacks.text
    with pytest.raises(ConfigError, match="cannot be seen"):
        async with Bus(f"{url}?strict=true"):
            pass


@on_the_oldest_too
async def test_the_documented_rights_suffice_for_everything(server: Server, admin: redis.Redis) -> None:
    """FAULTS 43."""
    bus = Bus(limited(server, admin), lease=1.2)
    tried: list[str] = []

    async def work(placed: OrderPlaced) -> None:
        tried.append(placed.order_id)
        if placed.order_id == "long":
            await asyncio.sleep(1.8)
        if placed.order_id == "bad":
            raise ValueError

    bus.add_subscriber(work, OrderPlaced, name="plain", retry=Retry(attempts=2, delay=0.05, jitter=0))
    bus.add_subscriber(work, OrderPlaced, name="ordered", ordered=True, retry=Retry(attempts=1))
    async with bus.worker():
        await bus.publish_many([OrderPlaced(name) for name in ("one", "one", "bad", "long")])
        await bus.publish(OrderPlaced("late"), delay=0.1)
        async with asyncio.timeout(20):
            while (await bus.stats()).dead < 2 or tried.count("late") < 2:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.02)
        assert {worker.state for worker in await inspectable(bus.transport).workers()} == {"running"}
    async with bus:
        assert [one.envelope.key async for one in bus.events.each()] == ["bad"]
        assert await bus.dead.replay("plain") == 1
        assert await bus.dead.discard("ordered") == 1
        await bus.subscriptions.pause("plain")
        await bus.subscriptions.resume("plain")
        await bus.subscriptions.rename("plain", "renamed")
        assert await bus.subscriptions.retire("renamed") == 1
        assert [
            one.what for one in await examine(bus) if one.level == "error" and one.what != "subscription plain"
        ] == []


async def test_strict_refuses_a_server_that_may_lose_events(server: Server, admin: redis.Redis) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match=r"appendonly.*allkeys-lru"):
        async with Bus(f"{server.url}?strict=true"):
            pass


async def test_a_worker_says_once_what_may_lose_events(
    server: Server, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    bus = shop(server.url)
    with caplog.at_level(logging.WARNING, "postbus"):
        async with bus.worker():
            pass
    (said,) = [record.getMessage() for record in caplog.records if "may lose" in record.getMessage()]
    assert "allkeys-lru" in said
    assert "appendonly" in said


async def test_options_of_no_meaning_are_refused() -> None:
    for option in ("strict=yes", "wait_replicas=-1", "wait_replicas=many", "wait_disk=1", "nonsense=1"):
        with pytest.raises(ConfigError, match=option.partition("=")[0]):
            Bus(f"redis://127.0.0.1/0?{option}")


async def test_a_namespace_without_anything_is_examined_too(transport: RedisTransport) -> None:
    assert (await findings(transport))["rights"].level == "ok"
    with pytest.raises(LookupError):
        await claim(transport)
