"""persist-queue: `SQLiteAckQueue`, which commits each put and each ack (WAL, `synchronous=FULL`)."""

from __future__ import annotations

import time

from persistqueue import SQLiteAckQueue

from ..load import order, rate, timed
from ..task import Measure, Task


def publish_one_by_one(task: Task) -> Measure:
    """One `put` for each event."""
    queue, placed = _queue(task), order()

    def loop(count: int) -> None:
        for _ in range(count):
            queue.put(placed)

    return timed(loop, task.events)


def drain(task: Task) -> Measure:
    """`get` and `ack`, one by one."""
    queue, placed = _queue(task), order()
    for _ in range(task.events):
        queue.put(placed)
    begun = time.perf_counter()
    for _ in range(task.events):
        queue.ack(queue.get(block=False))
    return rate(task.events, time.perf_counter() - begun)


def _queue(task: Task) -> SQLiteAckQueue:
    return SQLiteAckQueue(str(task.place / "persist"), auto_commit=True)
