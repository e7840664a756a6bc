"""What the interpreter does for one event, counted instead of timed: the same on a machine that others use."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any, Self

from ..load import order
from ..task import Measure, Task
from .bus import receipts, settled

__all__ = ["BYTECODES", "bytecodes"]

BYTECODES = "bytecodes an event"
_WARM = 200


class _Counter:
    """Counts every instruction of every Python function that is entered, or entered again, while it is on."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        sys.settrace(self._entered)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _entered(self, frame: FrameType, _event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._seen

    def _seen(self, _: FrameType, event: str, _argument: Any) -> Any:
        self.count += event == "opcode"
        return self._seen


def bytecodes(task: Task) -> Measure:
    """Publisher and worker in one loop: `publish` one by one, until all are handled and settled."""

    async def main() -> Measure:
        bus, placed = receipts(task.text("url"), journal=False), order()

        async def loop(count: int) -> None:
            for _ in range(count):
                await bus.publish(placed)
            await settled(bus, worker)

        async with bus, bus.worker() as worker:
            await loop(_WARM)
            with _Counter() as counter:
                await loop(task.events)
            return {BYTECODES: counter.count / task.events}

    return asyncio.run(main())
