"""What is asked once for all who look, and asked again the more seldom the dearer it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Kept"]

T = TypeVar("T")

# Asking takes at most a twelfth of the time.
_SHARE = 12.0


class Kept(Generic[T]):
    """The last answer, as long as it is fresh; whoever comes while somebody asks waits for the same answer.

    Args:
        ask: asks.
        fresh: seconds for which an answer is good at least.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], fresh: float) -> None:
        self._ask = ask
        self._fresh = fresh
        self._until = float("-inf")
        self._answer: asyncio.Future[T] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def get(self) -> T:
        """The answer; raises what asking raises, and is asked again then."""
        loop = asyncio.get_running_loop()
        answer = self._answer
        stale = answer is None or self._loop is not loop or (answer.done() and time.monotonic() > self._until)
        if answer is None or stale:
            self._loop = loop
            answer = self._answer = asyncio.ensure_future(self._timed())
        return await asyncio.shield(answer)

    async def _timed(self) -> T:
        began = time.monotonic()
        self._until = float("-inf")
        found = await self._ask()
        took = time.monotonic() - began
        self._until = began + took + max(self._fresh, took * _SHARE)
        return found
