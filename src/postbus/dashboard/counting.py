"""How many there are, count_up for a moment only: a dialog opens at once, whatever it speaks of."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable

__all__ = ["PATIENCE", "count_up"]

# So many seconds are count_up before the answer is "at least so many".
PATIENCE = 0.5


async def count_up(steps: AsyncIterable[int]) -> tuple[int, bool]:
    """Add up what each step found; whether that is all, for counting ends before anybody grows impatient."""
    found, began = 0, time.monotonic()
    async for step in steps:
        found += step
        if time.monotonic() - began > PATIENCE:
            return found, False
    return found, True
