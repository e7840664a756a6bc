"""What time it is, passed in.  Every due time, expiry and lease of this process is reckoned with one of these."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Protocol

from .errors import ConfigError

__all__ = ["Clock", "Span", "SystemClock", "seconds"]

Span = float | int | timedelta


class Clock(Protocol):
    """Two readings of time, in seconds as float."""

    def time(self) -> float:
        """Seconds since 1970 UTC; may jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; comparable between processes of one machine until it restarts."""
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
