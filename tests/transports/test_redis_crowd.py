"""Many subscriptions and many workers cost a server little."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import redis

from postbus import Bus, event
from server_kinds import RedisKind
from servers import Server, own


@dataclass(frozen=True)
class Happened:
    number: int


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from own(RedisKind())


def connections(server: Server) -> int:
    with redis.Redis(port=server.port) as client:
        listed: Any = client.client_list()
    return sum(row["cmd"] != "client|list" for row in listed)


async def test_two_hundred_subscriptions_of_one_worker_take_few_connections(server: Server) -> None:
    """Each on a topic of its own; and none of them waits for another's poll."""
    bus = Bus(server.url, namespace="crowd")
    kinds: list[type] = [event(f"crowd{n}.thing.happened")(type(f"Crowd{n}", (Happened,), {})) for n in range(200)]
    handled: set[int] = set()
    news = asyncio.Event()

    async def handle(happened: Happened) -> None:
        handled.add(happened.number)
        news.set()

    for n, kind in enumerate(kinds):
        bus.add_subscriber(handle, kind, name=f"of-{n}")
    before = connections(server)
    async with bus, bus.worker():
        await bus.publish_many([kind(n) for n, kind in enumerate(kinds)])
        async with asyncio.timeout(30):
            while len(handled) < 200:
                news.clear()
                await news.wait()
        assert connections(server) - before <= 8


@pytest.mark.soak
@pytest.mark.timeout(90)
async def test_a_hundred_idle_workers_leave_the_server_alone(server: Server) -> None:
    async with AsyncExitStack() as stack:
        bus = Bus(server.url, namespace="idle")
        bus.add_subscriber(print, event("idle.thing.happened")(type("Idle", (Happened,), {})), name="idle")
        await stack.enter_async_context(bus)
        for _ in range(100):
            other = Bus(server.url, namespace="idle", declare=False)
            other.include(bus)
            await stack.enter_async_context(other)
            await stack.enter_async_context(other.worker())
        await asyncio.sleep(6)  # past the first polls
        process = psutil.Process(server.pid)
        spent, began = sum(process.cpu_times()[:2]), time.monotonic()
        await asyncio.sleep(10)
        share = (sum(process.cpu_times()[:2]) - spent) / (time.monotonic() - began)
        assert share < 0.03, f"{share:.2%} of a core"
