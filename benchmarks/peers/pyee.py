"""pyee: an event emitter by name, synchronous and with asyncio tasks."""

from __future__ import annotations

import asyncio

from pyee import EventEmitter
from pyee.asyncio import AsyncIOEventEmitter

from ..load import OrderPlaced, handlers, order, timed, timed_async
from ..task import Measure, Task

# It has no back-pressure, so the publisher waits after so many.
_BATCH = 1000


def call(task: Task) -> Measure:
    """`emit` to synchronous handlers."""
    emitter, placed = EventEmitter(), order()
    for handler in handlers(task.number("handlers")):
        emitter.on("order.placed", handler)

    def loop(count: int) -> None:
        for _ in range(count):
            emitter.emit("order.placed", placed)

    return timed(loop, task.events)


def background(task: Task) -> Measure:
    """`emit` to a coroutine function; one task for each event."""

    async def handler(event: OrderPlaced) -> None:
        pass

    async def main() -> Measure:
        emitter, placed = AsyncIOEventEmitter(), order()
        emitter.on("order.placed", handler)

        async def loop(count: int) -> None:
            for _ in range(0, count, _BATCH):
                for _ in range(_BATCH):
                    emitter.emit("order.placed", placed)
                await emitter.wait_for_complete()

        return await timed_async(loop, task.events)

    return asyncio.run(main())
