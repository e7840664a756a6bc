"""Ends what a test run left behind when it died too fast to do so: its servers, by pid, and its temporary folders.

A process of its own that reads from the test run what to watch.  When that pipe closes, the run is over.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["Reaper", "reaper"]

GRACE = 3.0


class Reaper:
    """The test run's end of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, text=True, start_new_session=True
        )
        atexit.register(self.close)

    def watch(self, pid: int, stop_signal: signal.Signals) -> None:
        """End this process when the run is over."""
        self._say(f"watch {pid} {stop_signal.value}")

    def forget(self, pid: int) -> None:
        """It has ended: its pid may become another's."""
        self._say(f"forget {pid}")

    def keep(self, folder: Path) -> None:
        """Remove this folder when the run is over."""
        self._say(f"keep {folder}")

    def close(self) -> None:
        """Let it do what is left, and wait for it."""
        self._process.communicate()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


@functools.cache
def reaper() -> Reaper:
    """The one of this process."""
    return Reaper()


def main() -> None:
    """Listen until the pipe closes, then clean up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watched: dict[int, int] = {}
    folders: list[str] = []
    for line in sys.stdin:
        match line.split(maxsplit=2):
            case ["watch", pid, stop_signal]:
                watched[int(pid)] = int(stop_signal)
            case ["forget", pid]:
                watched.pop(int(pid), None)
            case _:
                folders.append(line.removeprefix("keep ").rstrip("\n"))
    for pid, stop_signal in watched.items():
        _send(pid, signal.SIGCONT)
        _send(pid, stop_signal)
    deadline = time.monotonic() + GRACE
    while any(_send(pid, 0) for pid in watched) and time.monotonic() < deadline:
        time.sleep(0.01)
    for pid in watched:
        _send(pid, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _send(pid: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


if __name__ == "__main__":
    main()
