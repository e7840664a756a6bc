"""litequeue: a table with a status column; it sets `synchronous=NORMAL`, so a power loss may take the last commits."""

from __future__ import annotations

import time

from litequeue import LiteQueue

from ..load import decode, encode, order, rate, timed
from ..task import Measure, Task


def publish_one_by_one(task: Task) -> Measure:
    """One `put` for each event; it stores text."""
    queue, placed = _queue(task), order()

    def loop(count: int) -> None:
        for _ in range(count):
            queue.put(encode(placed).decode("latin-1"))

    return timed(loop, task.events)


def drain(task: Task) -> Measure:
    """`pop` and `done`, one by one."""
    queue, body = _queue(task), encode(order()).decode("latin-1")
    for _ in range(task.events):
        queue.put(body)
    begun = time.perf_counter()
    while (message := queue.pop()) is not None:
        decode(message.data.encode("latin-1"))
        queue.done(message.message_id)
    return rate(task.events, time.perf_counter() - begun)


def _queue(task: Task) -> LiteQueue:
    return LiteQueue(str(task.place / "lite.db"))
