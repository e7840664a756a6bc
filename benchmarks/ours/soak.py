"""What must stay flat: a worker's memory over many events and beside waiting retries, its speed with a backlog."""

from __future__ import annotations

import asyncio
import time

from postbus import Bus, Retry

from ..load import OrderPlaced, order, rate, resident
from ..task import Measure, Task
from .bus import CONCURRENCY, SUBSCRIPTION, Count, fill, receipts, settled

_CHECKPOINTS = 10


class Watch:
    """A subscriber that notes this process's memory at each tenth of the way."""

    def __init__(self, events: int, *, fails: bool = False) -> None:
        self.count = Count(events)
        self.fails = fails
        self.step = max(1, events // _CHECKPOINTS)
        self.memory: list[float] = []

    async def receipt(self, event: OrderPlaced) -> None:
        """Handle one event."""
        await self.count.receipt(event)
        if self.count.seen % self.step == 0:
            self.memory.append(resident())
        if self.fails:
            raise OSError("the card processor is away")

    def measure(self) -> Measure:
        """Memory half-way and at the end, and the most that lay above half-way in between: caches are full by then."""
        half = self.memory[len(self.memory) // 2 - 1]
        return {
            "MiB at 50 %": half,
            "MiB at 100 %": self.memory[-1],
            "MiB gained": max(0.0, *(memory - half for memory in self.memory[len(self.memory) // 2 :])),
        }


def stored(task: Task) -> Measure:
    """Store `task.events` events in the row's shared directory."""
    asyncio.run(fill(task.text("url"), task.events))
    return {}


def memory_stored(task: Task) -> Measure:
    """A worker process that drains what `stored` left."""
    return asyncio.run(_watched(task, Watch(task.events)))


def memory_failing(task: Task) -> Measure:
    """The same, but every event fails and waits for its retry."""
    return asyncio.run(_watched(task, Watch(task.events, fails=True)))


def memory_passing(task: Task) -> Measure:
    """Publisher and worker in one process, over the memory transport."""

    async def main() -> Measure:
        watch = Watch(task.events)
        async with _watching(task.text("url"), watch) as bus, bus.worker() as worker:
            for number in range(task.events):
                await bus.publish(order(number))
            await settled(bus, worker)
        return watch.measure()

    return asyncio.run(main())


def memory_beside(task: Task) -> Measure:
    """A fresh worker's memory after `task.events` new events, with whatever waits in that database."""

    async def main() -> Measure:
        url, count = task.text("url"), Count(task.events)
        await fill(url, task.events)
        async with receipts(url, count) as bus, bus.worker():
            await count.reached.wait()
            await asyncio.sleep(1)
            return {"MiB": resident()}

    return asyncio.run(main())


def backlog(task: Task) -> Measure:
    """How fast a worker runs the first `task.events` of what waits, after storing `fill` more."""

    async def main() -> Measure:
        url, count, stamps = task.text("url"), Count(task.events), [0.0] * 0
        await fill(url, round(task.number("fill") * float(task.options["scale"])))

        async def receipt(event: OrderPlaced) -> None:
            if not stamps:
                stamps.append(time.perf_counter())
            await count.receipt(event)

        bus = Bus(url, concurrency=CONCURRENCY)
        bus.add_subscriber(receipt, OrderPlaced, name=SUBSCRIPTION, concurrency=CONCURRENCY)
        async with bus, bus.worker():
            await count.reached.wait()
            return rate(task.events, time.perf_counter() - stamps[0])

    return asyncio.run(main())


async def _watched(task: Task, watch: Watch) -> Measure:
    async with _watching(task.text("url"), watch) as bus:
        begun = time.perf_counter()
        async with bus.worker() as worker:
            await watch.count.reached.wait()
            await settled(bus, worker)
            seconds = time.perf_counter() - begun
    return {**watch.measure(), **rate(task.events, seconds)}


def _watching(url: str, watch: Watch) -> Bus:
    bus = Bus(url, concurrency=CONCURRENCY)
    patient = Retry(attempts=2, delay=3600)
    bus.add_subscriber(watch.receipt, OrderPlaced, name=SUBSCRIPTION, concurrency=CONCURRENCY, retry=patient)
    return bus
