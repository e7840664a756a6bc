"""A deque drained by one task: what handing events to background work in one loop cannot beat."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..load import OrderPlaced, decode, encode, order, timed_async
from ..task import Measure, Task

T = TypeVar("T")

# Enough that the loop seldom turns, little enough to stay in the cache.
_BOUND = 10_000


def objects(task: Task) -> Measure:
    """The object itself is handed over."""

    async def same(event: OrderPlaced) -> None:
        pass

    placed = order()
    return asyncio.run(timed_async(lambda count: _through(lambda: placed, same, count), task.events))


def msgpack(task: Task) -> Measure:
    """The event is encoded on the way in and decoded on the way out."""

    async def decoded(body: bytes) -> None:
        decode(body)

    placed = order()
    return asyncio.run(timed_async(lambda count: _through(lambda: encode(placed), decoded, count), task.events))


async def _through(make: Callable[[], T], subscriber: Callable[[T], Awaitable[None]], count: int) -> None:
    waiting: deque[T] = deque()

    async def drain() -> None:
        left = count
        while left:
            while waiting:
                await subscriber(waiting.popleft())
                left -= 1
            await asyncio.sleep(0)

    async def publish() -> None:
        waiting.append(make())
        if len(waiting) >= _BOUND:
            await asyncio.sleep(0)

    draining = asyncio.create_task(drain())
    for _ in range(count):
        await publish()
    await draining
