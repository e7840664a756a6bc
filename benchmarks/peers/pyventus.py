"""pyventus: an event emitter for asyncio, one task for each event."""

from __future__ import annotations

import asyncio

from pyventus.core.processing.asyncio import AsyncIOProcessingService
from pyventus.events import EventEmitter, EventLinker

from ..load import OrderPlaced, order, timed_async
from ..task import Measure, Task

# It has no back-pressure, so the publisher waits after so many.
_BATCH = 1000


def background(task: Task) -> Measure:
    """`emit` to a coroutine function."""

    async def handler(event: OrderPlaced) -> None:
        pass

    async def main() -> Measure:
        EventLinker.subscribe(OrderPlaced, event_callback=handler)
        tasks = AsyncIOProcessingService()
        emitter, placed = EventEmitter(event_processor=tasks, event_linker=EventLinker, debug=False), order()

        async def loop(count: int) -> None:
            for _ in range(0, count, _BATCH):
                for _ in range(_BATCH):
                    emitter.emit(placed)
                await tasks.wait_for_tasks()

        return await timed_async(loop, task.events)

    return asyncio.run(main())
