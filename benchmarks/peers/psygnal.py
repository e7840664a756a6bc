"""psygnal: compiled Qt-style signals."""

from __future__ import annotations

from psygnal import Signal

from ..load import handlers, order, timed
from ..task import Measure, Task


class _Shop:
    placed = Signal(object)


def call(task: Task) -> Measure:
    """`emit` of a signal of an instance."""
    shop, placed, slots = _Shop(), order(), handlers(task.number("handlers"))
    for slot in slots:
        shop.placed.connect(slot)

    def loop(count: int) -> None:
        emit = shop.placed.emit
        for _ in range(count):
            emit(placed)

    return timed(loop, task.events)
