"""bubus: an event bus with pydantic events and a history."""

from __future__ import annotations

import asyncio
import logging

from bubus import BaseEvent, EventBus

from ..load import timed_async
from ..task import Measure, Task

# Its queue refuses more than fifty.
_BATCH = 50


class Placed(BaseEvent[None]):  # type: ignore[misc]  # it ships no types
    """The same fields as everybody's event."""

    order_id: str = "o-123456"
    customer: str = "customer-42@example.com"
    sku: str = "SKU-000-111"
    quantity: int = 3
    cents: int = 4200
    note: str = "x" * 50


def background(task: Task) -> Measure:
    """`dispatch`, then wait for the batch; an event object can be dispatched only once."""
    logging.disable(logging.CRITICAL)

    async def handler(event: Placed) -> None:
        pass

    async def main() -> Measure:
        bus = EventBus(max_history_size=_BATCH)
        bus.on(Placed, handler)

        async def loop(count: int) -> None:
            for _ in range(0, count, _BATCH):
                for placed in [bus.dispatch(Placed()) for _ in range(_BATCH)]:
                    await placed

        measure = await timed_async(loop, task.events)
        await bus.stop(timeout=0, clear=True)
        return measure

    return asyncio.run(main())
