"""Draining ends when nothing more can be delivered in time, and says so when something should have been."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from postbus import Bus, Retry, event
from postbus.clock import Clock, SystemClock
from postbus.testing import ManualClock


@event("orders.order.placed", key="customer")
@dataclass(frozen=True)
class OrderPlaced:
    customer: str
    number: int


@pytest.fixture(params=["memory", "sqlite", "redis", "postgresql"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Clock], Bus]:
    kind = request.param
    if kind in ("memory", "sqlite"):
        url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path / 'shop.db'}"
    else:
        url = request.getfixturevalue("redis_url" if kind == "redis" else "postgres_url")
    return lambda clock: Bus(url, namespace=f"t{uuid4().hex[:12]}", clock=clock)


def failing_once(bus: Bus, delay: float) -> list[int]:
    done: list[int] = []
    failed: list[int] = []

    @bus.subscriber(OrderPlaced, name="bill", ordered=True, retry=Retry(delay=delay))
    async def bill(event: OrderPlaced) -> None:
        if event.number == 1 and not failed:
            failed.append(1)
            raise OSError("not now")
        done.append(event.number)

    return done


async def test_what_waits_behind_a_retry_that_is_due_too_late_is_left(make: Callable[[Clock], Bus]) -> None:
    bus = make(SystemClock())
    done = failing_once(bus, delay=600)
    async with bus:
        await bus.publish_many([OrderPlaced("ada", 1), OrderPlaced("ada", 2), OrderPlaced("bob", 3)])
        await bus.drain(timeout=30)
        left = (await bus.stats())["bill"]
    assert done == [3]
    assert (left.retrying, left.waiting, left.backlog) == (1, 1, 1)


async def test_a_clock_that_is_moved_by_hand_ends_a_drain_too(make: Callable[[Clock], Bus]) -> None:
    bus = make(clock := ManualClock())
    if bus.transport.traits.name == "postgresql":
        pytest.skip("its clock is the server's")
    done = failing_once(bus, delay=60)
    async with bus:
        await bus.publish_many([OrderPlaced("ada", 1), OrderPlaced("ada", 2), OrderPlaced("bob", 3)])
        await bus.drain(timeout=30)
        assert done == [3]
        clock.advance(100)
        await bus.drain(timeout=30)
    assert done == [3, 1, 2]
