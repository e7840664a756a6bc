"""What time it is, passed in.  Every due time, expiry and lease of this process is reckoned with one of these."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol, runtime_checkable

from .errors import ConfigError

__all__ = ["AdvancingClock", "Clock", "Span", "SystemClock", "seconds"]

Span = float | int | timedelta


class Clock(Protocol):
    """Two readings of time, in seconds as float."""

    def time(self) -> float:
        """Seconds since 1970 UTC; may jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; comparable between processes of one machine until it restarts."""
        ...


@runtime_checkable
class AdvancingClock(Clock, Protocol):
    """A clock that is moved by hand, and can say so to whoever waits for a time."""

    def on_advance(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each move; return what ends that."""
        ...


class SystemClock:
    """The machine's own clock."""

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)


def seconds(span: Span, what: str, *, least: float = 0.0) -> float:
    """Return a span as seconds.

    Raises:
        ConfigError: when it is not a finite number or timedelta of at least `least` seconds.
    """
    value = span.total_seconds() if isinstance(span, timedelta) else span
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
        raise ConfigError(f"{what}={span!r}: expected seconds from {least:g}, as a number or timedelta")
    return float(value)
