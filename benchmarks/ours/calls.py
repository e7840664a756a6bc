"""In-process handlers."""

from __future__ import annotations

from postbus import Bus

from ..load import OrderPlaced, handlers, order, timed
from ..task import Measure, Task


def call_sync(task: Task) -> Measure:
    """`call_sync` to synchronous handlers."""
    bus, placed = Bus("memory://"), order()
    for handler in handlers(task.number("handlers")):
        bus.add_handler(handler, OrderPlaced)

    def loop(count: int) -> None:
        for _ in range(count):
            bus.call_sync(placed)

    with bus:
        return timed(loop, task.events)
