"""A sleep that ends early when another process writes: where the system tells (Linux), an idle watch costs nothing."""

from __future__ import annotations

import ctypes
import os
import select
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["Nudge"]

# https://man7.org/linux/man-pages/man7/inotify.7.html
_MODIFY = 0x2


class Nudge:
    """Sleeps of one thread; `wake` and `close` are for others."""

    def __init__(self, path: Path) -> None:
        self._woken = threading.Event()
        self._ends: tuple[int, int] | None = None
        self._watch = _watched(path) if sys.platform == "linux" else -1
        if self._watch >= 0:
            self._ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._poll = select.poll()
            self._poll.register(self._watch, select.POLLIN)
            self._poll.register(self._ends[0], select.POLLIN)

    @property
    def tells(self) -> bool:
        """Whether a write ends a sleep."""
        return self._ends is not None

    def sleep(self, seconds: float) -> bool:
        """Sleep, at most so long; whether a write ended it."""
        if self._ends is None:
            self._woken.wait(seconds)
            self._woken.clear()
            return False
        if seconds < 0.001:  # poll counts in milliseconds
            time.sleep(seconds)
            seconds = 0.0
        ready = [file for file, _ in self._poll.poll(seconds * 1000)]
        for file in ready:
            with suppress(BlockingIOError):
                os.read(file, 4096)
        return self._watch in ready

    def wake(self) -> None:
        """End the sleep."""
        self._woken.set()
        if self._ends is not None:
            with suppress(BlockingIOError):  # full of wakes already
                os.write(self._ends[1], b"!")

    def close(self) -> None:
        """Let go of the files, when nobody sleeps any more."""
        ends, self._ends = self._ends, None
        for file in () if ends is None else (self._watch, *ends):
            os.close(file)


def _watched(path: Path) -> int:
    """A file that can be read when somebody wrote to that path; -1 where the system has no more of them."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if watch >= 0 and libc.inotify_add_watch(watch, os.fsencode(path), _MODIFY) < 0:
        os.close(watch)
        return -1
    return watch
