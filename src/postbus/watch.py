"""Time limits of all runs of a worker, with one timer: cancels what is overdue, gives up what ignores that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Set

from .lanes import Slot
from .observe import Counters

__all__ = ["Watch"]

# A subscriber that swallows its cancellation gets this many seconds (at most a lease), then its slot counts as leaked.
_SWALLOW = 5.0


class Watch:
    """Looks at the slots when the next deadline passes, and not before.

    A timer for each run would cost more than most runs: https://docs.python.org/3/library/asyncio-task.html#timeouts
    """

    def __init__(self, slots: Set[Slot], counters: Counters, patience: float, give_up: Callable[[Slot], None]) -> None:
        self._slots = slots
        self._counters = counters
        self._patience = min(_SWALLOW, patience)
        self._give_up = give_up
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, deadline: float) -> None:
        """A run began that must have ended by then."""
        if self._at is None or deadline < self._at:
            self.close()
            self._at = deadline
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._at = None

    def cancel(self, slot: Slot, cause: str) -> None:
        """Cancel a run, noting why: 'timeout' or 'shutdown'."""
        if slot.runs and slot.task is not None:
            slot.cause = cause
            slot.cancelled_at = time.monotonic()
            slot.task.cancel()

    def _look(self) -> None:
        now = time.monotonic()
        self._timer = self._at = None
        following = [at for slot in tuple(self._slots) if slot.runs and (at := self._next_for(slot, now)) is not None]
        if following:
            self.expect(min(following))

    def _next_for(self, slot: Slot, now: float) -> float | None:
        """See to one run; return when to look again."""
        if slot.cancelled_at is not None:
            if now < slot.cancelled_at + self._patience:
                return slot.cancelled_at + self._patience
            self._give_up(slot)
            return None
        if now < slot.deadline:
            return slot.deadline
        self._counters.timeouts += 1
        self.cancel(slot, "timeout")
        return now + self._patience
