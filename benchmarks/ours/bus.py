"""The buses that the contenders share, and how to wait until nothing is left."""

from __future__ import annotations

import asyncio
from typing import Protocol

from postbus import Bus

from ..load import OrderPlaced, order

__all__ = ["SUBSCRIPTION", "Count", "fill", "receipts", "settled"]

SUBSCRIPTION = "receipts"
CONCURRENCY = 100
_BATCH = 1000


class Worker(Protocol):
    """What `bus.worker()` gives, as far as we ask."""

    @property
    def idle(self) -> bool:
        """Whether it holds nothing, and knows of nothing to claim."""
        ...


class Count:
    """A subscriber that counts, and says when it has seen enough."""

    def __init__(self, enough: int) -> None:
        self.seen = 0
        self.enough = enough
        self.reached = asyncio.Event()

    async def receipt(self, _: OrderPlaced) -> None:
        """Handle one event."""
        self.seen += 1
        if self.seen == self.enough:
            self.reached.set()


async def no_op(event: OrderPlaced) -> None:
    """The subscriber that raw loops await too."""


def receipts(url: str, count: Count | None = None, *, ordered: bool = False, journal: bool = True) -> Bus:
    """A bus with one coroutine subscriber, which counts if asked to."""
    bus = Bus(url, concurrency=CONCURRENCY, journal=journal)
    subscriber = count.receipt if count else no_op
    bus.add_subscriber(subscriber, OrderPlaced, name=SUBSCRIPTION, concurrency=CONCURRENCY, ordered=ordered)
    return bus


async def fill(url: str, events: int, keys: int = 0, batch: int = _BATCH) -> None:
    """Store that many events for a worker to come; of so many keys, and for an ordered subscription, if asked to."""
    async with receipts(url, ordered=keys > 0) as bus:
        for first in range(0, events, batch):
            numbers = range(first, min(first + batch, events))
            await bus.publish_many([order(number % keys if keys else number) for number in numbers])


async def settled(bus: Bus, worker: Worker) -> None:
    """Wait until all is handled and settled; asks the transport only when the worker knows of nothing."""
    while not worker.idle or (stats := await bus.stats()).backlog or stats.in_flight:  # noqa: ASYNC110 - no bell says it
        await asyncio.sleep(0.001)
