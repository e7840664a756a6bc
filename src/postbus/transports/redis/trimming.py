"""Lets go of what no subscription needs any more, a little after something was settled."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from ...errors import PostbusError
from .line import Line
from .registry import Keys
from .scripts import TRIM

__all__ = ["Trimming"]

# Rarely enough to cost nothing, often enough that a stream holds little that is done.
_EVERY = 0.1
_AT_LEAST_MS = 50


class Trimming:
    """Trims the topics in which something was done."""

    def __init__(self, line: Line, keys: Keys, retain: float | None) -> None:
        self._line = line
        self._keys = keys
        self._retain: Any = "" if retain is None else round(retain * 1000)
        self._topics: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def note(self, topic: str) -> None:
        """Something was done here."""
        self._topics.add(topic)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._trim())

    async def _trim(self) -> None:
        try:
            await asyncio.sleep(_EVERY)
            topics, self._topics = self._topics, set()
            await self.trim(topics, least=_AT_LEAST_MS, exact=False)
        except PostbusError:  # the next one does it
            return
        finally:
            self._task = None

    async def trim(self, topics: Collection[str], *, least: int, exact: bool) -> None:
        """Trim these now; `exact` to the entry, else to the block of entries."""
        args = [self._retain, least, "1" if exact else "0"]
        scripts = [(TRIM, [self._keys.stream(topic)], args) for topic in topics]
        if scripts:
            await self._line.run_each(*scripts)

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
