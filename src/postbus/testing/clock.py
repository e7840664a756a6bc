"""A clock that stands still until it is told to move."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["ManualClock"]

# 2026-01-01T00:00:00Z, so that times look like times.
_START = 1_767_225_600.0


class ManualClock:
    """A `Clock` for tests: no time passes but by `advance`."""

    def __init__(self, time: float = _START, monotonic: float = 1_000.0) -> None:
        self._time = time
        self._monotonic = monotonic
        self._callbacks: list[Callable[[], None]] = []

    def time(self) -> float:
        """Seconds since 1970 UTC."""
        return self._time

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, then tell those who asked.

        Raises:
            ValueError: when time would go back; see `set_time` for a wall clock that does.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"advance({seconds!r}): expected seconds from 0")
        self._time += seconds
        self._monotonic += seconds
        self._tell()

    def set_time(self, time: float) -> None:
        """Set the wall clock alone, forwards or backwards, as an operator or NTP would."""
        self._time = time
        self._tell()

    def on_advance(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each move, in the mover's thread; return what ends that."""
        self._callbacks.append(callback)

        def forget() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return forget

    def _tell(self) -> None:
        for callback in tuple(self._callbacks):
            callback()

    def __repr__(self) -> str:
        return f"<ManualClock time={self._time:.3f} monotonic={self._monotonic:.3f}>"
