"""Calling functions in a loop: what in-process dispatch cannot beat."""

from __future__ import annotations

from ..load import handlers, order, timed
from ..task import Measure, Task


def bare_loop(task: Task) -> Measure:
    """No registry at all."""
    functions, placed = handlers(task.number("handlers")), order()

    def loop(count: int) -> None:
        for _ in range(count):
            for function in functions:
                function(placed)

    return timed(loop, task.events)
