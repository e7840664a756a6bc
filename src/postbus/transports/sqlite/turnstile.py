"""Fairness between processes: who waits for the write lock stands in the door, and whoever just had it queues behind.

SQLite's lock has no queue: a process that commits and begins again at once beats the ones that sleep, for as long as it
has work.  So everybody passes this lock before that one.  It is advice only, and never waited for for long.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from ...dice import dice

if sys.platform != "win32":
    import fcntl

__all__ = ["Turnstile"]

_PATIENCE = 0.05


class Turnstile:
    """A lock on a file of its own, held from the first attempt at the write lock until it is had."""

    def __init__(self, path: Path) -> None:
        self._file = -1
        if sys.platform != "win32":
            with suppress(OSError):  # a file of another user's that may not be read: no fairness, and nothing else lost
                self._file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def enter(self) -> bool:
        """Stand in the door, or give up after a while: whoever is in it may be stopped."""
        if self._file < 0 or sys.platform == "win32":
            return False
        began = 0.0
        while True:
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            now = time.monotonic()
            began = began or now
            if now - began >= _PATIENCE:
                return False
            time.sleep(dice.uniform(0.00005, 0.0003) + (now - began) / 10)

    def leave(self) -> None:
        """Let the next one in."""
        if self._file >= 0 and sys.platform != "win32":
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
