"""Django's signals."""

from __future__ import annotations

from typing import Any

from django.dispatch import Signal

from ..load import OrderPlaced, order, timed
from ..task import Measure, Task


def call(task: Task) -> Measure:
    """`send` with cached receivers."""
    signal, placed = Signal(use_caching=True), order()
    for _ in range(task.number("handlers")):
        signal.connect(_receiver(), weak=False)

    def loop(count: int) -> None:
        for _ in range(count):
            signal.send(OrderPlaced, event=placed)

    return timed(loop, task.events)


def _receiver() -> Any:
    def receiver(sender: object, event: OrderPlaced, **named: object) -> None:
        pass

    return receiver
