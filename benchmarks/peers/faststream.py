"""FastStream's subscriber of a Redis stream, with a consumer group and reads of 100."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from faststream.redis import RedisBroker, StreamSub
from pydantic import BaseModel
from redis.asyncio import Redis

from ..child import ask, start
from ..load import latencies, order, pace, rate, timed_async
from ..task import Measure, Task

_STREAM, _GROUP = "orders", "receipts"


class Order(BaseModel):
    """What the others publish, as its users write it."""

    order_id: str
    customer: str
    sku: str
    quantity: int
    cents: int
    note: str
    sent_ns: int = 0


def publish(task: Task) -> Measure:
    """So many coroutines, each awaiting one `publish` after the other."""

    async def main() -> Measure:
        publishers, placed = task.number("publishers"), _order()
        async with _broker(task) as broker:

            async def publisher(count: int) -> None:
                for _ in range(count):
                    await broker.publish(placed, stream=_STREAM)

            async def loop(count: int) -> None:
                await asyncio.gather(*(publisher(count // publishers) for _ in range(publishers)))

            return await timed_async(loop, task.events)

    return asyncio.run(main())


def publish_many(task: Task) -> Measure:
    """Batches in a pipeline, its fastest way."""

    async def main() -> Measure:
        async with _broker(task) as broker:
            return await timed_async(lambda count: _send(broker, count, task.number("batch")), task.events)

    return asyncio.run(main())


def drain(task: Task) -> Measure:
    """One subscriber empties what was stored before it started."""

    async def main() -> Measure:
        counted = _Counted(task.events)
        await _group(task)
        async with _broker(task) as broker:
            await _send(broker, task.events, 1000)
        async with _broker(task, counted) as broker:
            begun = time.perf_counter()
            await broker.start()
            await counted.reached.wait()
            return rate(task.events, time.perf_counter() - begun)

    return asyncio.run(main())


def both(task: Task) -> Measure:
    """A publisher process and this one, which subscribes."""

    async def main() -> Measure:
        counted = _Counted(task.events)
        await _group(task)
        async with _broker(task, counted) as broker:
            await broker.start()
            sender = start(task.other(f"{__name__}:send_many"))
            await counted.reached.wait()
            ended = time.monotonic()
            said = await asyncio.to_thread(ask, sender, 10)
            assert said.measure is not None, said.error
            return rate(task.events, ended - said.measure["began"])

    return asyncio.run(main())


def send_many(task: Task) -> Measure:
    """The publisher process of `both`."""

    async def main() -> Measure:
        async with _broker(task) as broker:
            began = time.monotonic()
            await _send(broker, task.events, 100)
            return {"began": began}

    return asyncio.run(main())


def latency(task: Task) -> Measure:
    """A publisher process at a steady rate, and this one, which subscribes."""

    async def main() -> list[float]:
        spans: list[float] = []
        counted = _Counted(task.events, lambda placed: spans.append((time.monotonic_ns() - placed.sent_ns) / 1e9))
        await _group(task)
        async with _broker(task, counted) as broker:
            await broker.start()
            sender = start(task.other(f"{__name__}:send"))
            await counted.reached.wait()
            await asyncio.to_thread(ask, sender, 10)
        return spans

    return latencies(asyncio.run(main()))


def send(task: Task) -> Measure:
    """The publisher process of `latency`."""

    async def main() -> None:
        async with _broker(task) as broker:

            async def one() -> None:
                await broker.publish(_order(time.monotonic_ns()), stream=_STREAM)

            await pace(one, task.events, task.number("per_second"))

    asyncio.run(main())
    return {}


class _Counted:
    def __init__(self, enough: int, note: Callable[[Order], None] | None = None) -> None:
        self.reached = asyncio.Event()
        self._left = enough
        self._note = note

    async def receipt(self, placed: Order) -> None:
        if self._note is not None:
            self._note(placed)
        self._left -= 1
        if not self._left:
            self.reached.set()


def _order(sent_ns: int = 0) -> Order:
    placed = order()
    return Order(
        order_id=placed.order_id,
        customer=placed.customer,
        sku=placed.sku,
        quantity=placed.quantity,
        cents=placed.cents,
        note=placed.note,
        sent_ns=sent_ns,
    )


@asynccontextmanager
async def _broker(task: Task, counted: _Counted | None = None) -> AsyncIterator[RedisBroker]:
    silence: Any = None  # it may be None, whatever its type says
    broker = RedisBroker(task.text("url"), logger=silence)
    if counted is not None:
        # The fastest of its settings that were tried: a wait of 10 ms in place of 100, and one record after the other.
        stream = StreamSub(_STREAM, group=_GROUP, consumer="one", max_records=100, polling_interval=10)
        broker.subscriber(stream=stream)(counted.receipt)
    await broker.connect()
    try:
        yield broker
    finally:
        await broker.stop()


async def _send(broker: RedisBroker, count: int, batch: int) -> None:
    client: Any = await broker.connect()
    placed = _order()
    for _ in range(max(1, count // batch)):
        async with client.pipeline(transaction=False) as pipeline:
            for _ in range(batch):
                await broker.publish(placed, stream=_STREAM, pipeline=pipeline)
            await pipeline.execute()


async def _group(task: Task) -> None:
    """Its own group begins with what comes after it."""
    async with Redis.from_url(task.text("url")) as redis:
        await redis.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)
