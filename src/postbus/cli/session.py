"""Runs one command's work with an app's open bus.  Nothing is declared unless asked: who looks, changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..bus import Bus
from ..failure import redacted
from ..logs import Logs
from ..program import Program

__all__ = ["with_bus"]

T = TypeVar("T")


def with_bus(program: Program, work: Callable[[Bus], Awaitable[T]], *, declare: bool = False) -> T:
    """Load the program, open its bus, and return what `work` returns."""
    Logs(level="warning").configure(redacted)
    bus = program.load()

    async def run() -> T:
        async with bus.opened(declare=declare):
            return await work(bus)

    return asyncio.run(run())
