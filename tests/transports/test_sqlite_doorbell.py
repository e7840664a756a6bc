"""SQLite's doorbell: heard across processes, once for each change, and silent beside a backlog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlite_ground import SPEC, claim, item, items, opened, settle

from postbus.delivery import Release, Requeue
from postbus.testing import ManualClock
from postbus.transport import SubscriptionSpec
from postbus.transports.sqlite import SqliteTransport

OTHER = SubscriptionSpec(name="other", wants=("b.>",))
LONG = 20.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def near(path: Path) -> AsyncIterator[SqliteTransport]:
    """The one that waits; what rings before the first wait is over."""
    transport = await opened(path, SPEC, OTHER)
    await transport.wait(["s", "other"], LONG)
    yield transport
    await transport.close()


@pytest.fixture
async def far(path: Path) -> AsyncIterator[SqliteTransport]:
    """As if in another process: it shares nothing but the file."""
    transport = await opened(path, SPEC, OTHER)
    yield transport
    await transport.close()


async def silent(transport: SqliteTransport, seconds: float = 0.15) -> bool:
    return not await transport.wait(["s", "other"], seconds)


async def test_an_append_rings_for_those_who_get_something(near: SqliteTransport, far: SqliteTransport) -> None:
    for transport in (near, far):
        waiting = asyncio.create_task(near.wait(["s", "other"], LONG))
        await asyncio.sleep(0.01)
        await transport.append([item()])
        assert await waiting == {"s"}
        while (await claim(near)).deliveries or not await silent(near, 0.05):
            pass


async def test_what_rang_while_nobody_waited_is_heard(near: SqliteTransport) -> None:
    await near.append([item()])
    assert await near.wait(["other"], 0.05) == set()
    assert await near.wait(["s", "other"], LONG) == {"s"}


async def test_a_backlog_by_itself_does_not_ring(near: SqliteTransport, far: SqliteTransport) -> None:
    await far.append(items(100))
    while not await silent(near):
        pass
    assert len((await claim(near, limit=1)).deliveries) == 1


async def test_what_is_handed_back_rings(near: SqliteTransport, far: SqliteTransport) -> None:
    await far.append([item()])
    (delivery,) = (await claim(far)).deliveries
    while not await silent(near, 0.05):
        pass
    waiting = asyncio.create_task(near.wait(["s"], LONG))
    await asyncio.sleep(0.01)
    await settle(far, [delivery], Release())
    assert await waiting == {"s"}


async def test_a_delay_rings_when_it_is_over_and_not_before(near: SqliteTransport, far: SqliteTransport) -> None:
    began = time.time()
    await far.append([item(delay=0.2)])
    while (await near.wait(["s"], LONG)) != {"s"} or not (found := (await claim(near)).deliveries):
        pass
    assert time.time() >= began + 0.2
    began = time.time()
    await settle(near, found, Requeue(0.2))
    while (await near.wait(["s"], LONG)) != {"s"} or not (await claim(near)).deliveries:
        pass
    assert time.time() >= began + 0.2


async def test_due_times_go_by_the_given_clock(path: Path) -> None:
    clock = ManualClock()
    transport = await opened(path, clock=clock)
    await transport.wait(["s"], LONG)
    await transport.append([item(delay=3600)])
    while await transport.wait(["s"], 0.1):
        pass
    clock.advance(3601)
    assert await transport.wait(["s"], LONG) == {"s"}
    await transport.close()


async def test_the_leases_of_the_dead_ring(path: Path, near: SqliteTransport) -> None:
    far = await opened(path, SPEC, OTHER)
    await far.append([item()])
    assert len((await claim(far, owner="doomed", lease=0.2)).deliveries) == 1
    await far.close()
    # What near was promised when it claimed last is how often it looks for the dead.
    await claim(near, "other", lease=0.2)
    async with asyncio.timeout(LONG):
        while not (await claim(near, lease=0.2, alone=True)).deliveries:
            await near.wait(["s"], LONG)


async def test_a_wait_that_was_cancelled_leaves_its_ring_to_the_next(near: SqliteTransport) -> None:
    for turns in range(8):
        waiting = asyncio.create_task(near.wait(["s"], LONG))
        await asyncio.sleep(0)
        near._open_house().doorbell.ring(["s"])
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        (heard,) = await asyncio.gather(waiting, return_exceptions=True)
        if heard != {"s"}:
            assert await near.wait(["s"], LONG) == {"s"}


async def test_several_waiters_all_hear(near: SqliteTransport) -> None:
    waiting = [asyncio.create_task(near.wait(["s"], LONG)) for _ in range(3)]
    await asyncio.sleep(0.01)
    await near.append([item()])
    assert await asyncio.gather(*waiting) == [{"s"}] * 3
