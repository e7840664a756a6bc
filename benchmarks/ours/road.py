"""Publishing, draining and both at once, by URL: the same functions for every transport."""

from __future__ import annotations

import asyncio
import time

from postbus import Bus, RawEvent

from ..child import ask, start
from ..load import Ping, latencies, order, pace, rate, timed, timed_async
from ..task import Measure, Task
from .bus import CONCURRENCY, Count, fill, receipts, settled


def publish_to_settled(task: Task) -> Measure:
    """Publisher and worker in one loop: `publish` one by one, until all are handled and settled."""

    async def main() -> Measure:
        bus, placed = receipts(task.text("url")), order()

        async def loop(count: int) -> None:
            for _ in range(count):
                await bus.publish(placed)
            await settled(bus, worker)

        async with bus, bus.worker() as worker:
            return await timed_async(loop, task.events)

    return asyncio.run(main())


def publish_sync(task: Task) -> Measure:
    """`publish_sync` one by one, with one subscription and no worker."""
    placed = order()
    with receipts(task.text("url")) as bus:

        def loop(count: int) -> None:
            for _ in range(count):
                bus.publish_sync(placed)

        return timed(loop, task.events)


def publish(task: Task) -> Measure:
    """So many coroutines, each awaiting one `publish` after the other."""

    async def main() -> Measure:
        publishers, placed = task.number("publishers"), order()
        async with receipts(task.text("url")) as bus:

            async def publisher(count: int) -> None:
                for _ in range(count):
                    await bus.publish(placed)

            async def loop(count: int) -> None:
                await asyncio.gather(*(publisher(count // publishers) for _ in range(publishers)))

            return await timed_async(loop, task.events)

    return asyncio.run(main())


def publish_many(task: Task) -> Measure:
    """`publish_many` of `batch` events, one call after the other."""

    async def main() -> Measure:
        batch = [order()] * task.number("batch")
        async with receipts(task.text("url")) as bus:

            async def loop(count: int) -> None:
                for _ in range(count // len(batch)):
                    await bus.publish_many(batch)

            return await timed_async(loop, task.events)

    return asyncio.run(main())


def there_and_back(task: Task) -> Measure:
    """`publish_many` of 100 and a worker in one loop; `journal` says whether what happens is written down."""

    async def main() -> Measure:
        batch, count = [order()] * 100, Count(task.events)
        bus = receipts(task.text("url"), count, journal=bool(task.number("journal")))
        async with bus, bus.worker() as worker:
            begun = time.perf_counter()
            for _ in range(task.events // len(batch)):
                await bus.publish_many(batch)
            await count.reached.wait()
            await settled(bus, worker)
            await bus.journal.flush()
            return rate(task.events, time.perf_counter() - begun)

    return asyncio.run(main())


def drain(task: Task) -> Measure:
    """A worker beside nothing else empties what was stored before it started.

    With `keys` in the options its subscription is ordered, and the events have so many keys.
    """

    async def main() -> Measure:
        url, count, keys = task.text("url"), Count(task.events), int(task.options.get("keys", 0))
        await fill(url, task.events, keys)
        async with receipts(url, count, ordered=keys > 0) as bus:
            begun = time.perf_counter()
            async with bus.worker() as worker:
                await count.reached.wait()
                await settled(bus, worker)
                return rate(task.events, time.perf_counter() - begun)

    return asyncio.run(main())


def both(task: Task) -> Measure:
    """`publish_many` of 100 in another process and a worker in this one, at once."""

    async def main() -> Measure:
        count = Count(task.events)
        async with receipts(task.text("url"), count) as bus, bus.worker() as worker:
            sender = start(task.other(f"{__name__}:send_many"))
            await count.reached.wait()
            await settled(bus, worker)
            ended = time.monotonic()
            said = await asyncio.to_thread(ask, sender, 10)
            assert said.measure is not None, said.error
            return rate(task.events, ended - said.measure["began"])

    return asyncio.run(main())


def send_many(task: Task) -> Measure:
    """The publisher process of `both`."""

    async def main() -> Measure:
        batch = [order()] * 100
        async with Bus(task.text("url")) as bus:
            began = time.monotonic()
            for _ in range(task.events // len(batch)):
                await bus.publish_many(batch)
            return {"began": began}

    return asyncio.run(main())


def latency(task: Task) -> Measure:
    """A publisher process at a steady rate, and a worker in this one: from `publish` called to subscriber started."""

    async def main() -> list[float]:
        bus, spans, enough = Bus(task.text("url"), concurrency=CONCURRENCY), [0.0] * 0, asyncio.Event()

        async def receive(event: Ping) -> None:
            spans.append((time.monotonic_ns() - event.sent_ns) / 1e9)
            if len(spans) == task.events:
                enough.set()

        bus.add_subscriber(receive, Ping, name="receive", concurrency=CONCURRENCY)
        async with bus, bus.worker():
            sender = start(task.other(f"{__name__}:send"))
            await enough.wait()
            await asyncio.to_thread(ask, sender, 10)
        return spans

    return latencies(asyncio.run(main()))


def send(task: Task) -> Measure:
    """The publisher process of `latency`."""

    async def main() -> None:
        async with Bus(task.text("url")) as bus:

            async def one() -> None:
                await bus.publish(Ping(time.monotonic_ns()))

            await pace(one, task.events, task.number("per_second"))

    asyncio.run(main())
    return {}


def idle(task: Task) -> Measure:
    """A worker with many subscriptions and nothing to do."""

    async def nothing(event: RawEvent) -> None:
        pass

    async def main() -> float:
        bus = Bus(task.text("url"))
        for number in range(task.number("subscriptions")):
            bus.add_subscriber(nothing, f"bench.idle.n{number}", name=f"idle-{number}")
        async with bus, bus.worker():
            await asyncio.sleep(1)
            used = time.process_time()
            await asyncio.sleep(task.number("seconds"))
            return time.process_time() - used

    return {"% of a core": 100 * asyncio.run(main()) / task.number("seconds")}
