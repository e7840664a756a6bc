"""huey on SQLite, with fsync (its default is without)."""

from __future__ import annotations

import time
from typing import Any

from huey import SqliteHuey

from ..load import order, rate, timed
from ..task import Measure, Task


def _receipt(event: object) -> None:
    pass


def _huey(task: Task) -> Any:
    return SqliteHuey("bench", filename=str(task.place / "huey.db"), fsync=True, results=False)


def publish_one_by_one(task: Task) -> Measure:
    """One task call for each event."""
    queue, placed = _huey(task), order()
    receipt = queue.task()(_receipt)

    def loop(count: int) -> None:
        for _ in range(count):
            receipt(placed)

    return timed(loop, task.events)


def drain(task: Task) -> Measure:
    """Its consumer's own steps, without its sleeps: dequeue one, execute it."""
    queue, placed = _huey(task), order()
    receipt = queue.task()(_receipt)

    for _ in range(task.events):
        receipt(placed)
    begun = time.perf_counter()
    while (waiting := queue.dequeue()) is not None:
        queue.execute(waiting)
    return rate(task.events, time.perf_counter() - begun)
