"""How much the neighbours took of the machine while something was measured: figures of a busy machine say little."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Meter"]


class Meter:
    """Counts from when it is made.

    Args:
        servers: seconds of a core that our servers have used.
    """

    def __init__(self, servers: Callable[[], float]) -> None:
        self._servers = servers
        self._begun = time.monotonic()
        self._all, self._ours = _busy(), self._own()

    def others(self) -> float | None:
        """Cores that were busy with what is not ours; None where the system does not say."""
        busy = _busy()
        if self._all is None or busy is None:
            return None
        seconds = time.monotonic() - self._begun
        return max(0.0, (busy - self._all) - (self._own() - self._ours)) / seconds

    def _own(self) -> float:
        mine, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return mine.ru_utime + mine.ru_stime + ended.ru_utime + ended.ru_stime + self._servers()


def _busy() -> float | None:
    """Seconds that the machine's cores were not idle, stolen ones included."""
    if sys.platform != "linux":
        return None
    words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    user, nice, system, _, _, interrupts, soft, stolen = map(int, words[1:9])
    return (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
