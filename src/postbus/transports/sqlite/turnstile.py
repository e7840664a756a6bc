"""Fairness between processes: who waits for the write lock stands in the door, and whoever just had it queues behind.

SQLite's lock has no queue: a process that commits and begins again at once beats the ones that sleep, for as long as it
has work.  So everybody passes this lock before that one.  It is advice only, and never waited for for long.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

try:
    import fcntl
except ImportError:  # Windows: no fairness, and nothing else lost
    fcntl = None  # type: ignore[assignment]

__all__ = ["Turnstile"]

_PATIENCE = 0.05


class Turnstile:
    """A lock on a file of its own, held from the first attempt at the write lock until it is had."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)

    def enter(self) -> bool:
        """Stand in the door, or give up after a while: whoever is in it may be stopped."""
        if fcntl is None:
            return False
        until = 0.0
        while True:
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            now = time.monotonic()
            until = until or now + _PATIENCE
            if now >= until:
                return False
            time.sleep(random.uniform(0.00005, 0.0003))

    def leave(self) -> None:
        """Let the next one in."""
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
