"""One worker process as its supervisor sees it: what it reports, how it is told to stop, and how it ended."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

__all__ = ["ABANDONED", "FAILED", "UNREACHABLE", "WRONG", "Child", "ending", "heedless"]

# Exit codes, as of the command line.
FAILED, WRONG, UNREACHABLE, ABANDONED = 1, 2, 3, 5

# Between the end of the grace and the kill: the child itself ends a little earlier, and says what it abandons.
_MERCY = 1.0


@dataclass(eq=False, slots=True)
class Child:
    """One worker process, as its supervisor sees it."""

    index: int
    process: subprocess.Popen[bytes]
    link: socket.socket
    replaces: Child | None = None
    again: bool = False  # it follows one that died
    ready: bool = False
    grace: float = 25.0
    heard_at: float = field(default_factory=time.monotonic)
    says: dict[str, Any] = field(default_factory=dict)
    failed: str | None = None
    fatal: bool = False
    retired: bool = False  # an operator stopped it for good
    kill_at: float | None = None  # set when it was told to stop
    killed: bool = False
    heard: bytes = b""

    def stop(self) -> None:
        """Tell it to stop, once.  One that is not ready runs nothing, and may not listen yet."""
        if self.kill_at is not None:
            return
        self.kill_at = time.monotonic() + self.grace + _MERCY
        with suppress(OSError):  # it is gone already
            self.link.sendall(b"stop\n")
        if not self.ready:
            self.process.terminate()

    def kill(self) -> None:
        """End it now."""
        self.killed = True
        self.process.kill()

    def hear(self) -> bool:
        """Take in what it reports; return whether it may report more."""
        more = True
        with suppress(OSError):
            while chunk := self.link.recv(65536, socket.MSG_DONTWAIT):
                self.heard += chunk
            more = False
        *lines, self.heard = self.heard.split(b"\n")
        for line in lines:
            self._note(json.loads(line))
        return more

    def _note(self, report: dict[str, Any]) -> None:
        self.heard_at = time.monotonic()
        self.says |= report
        self.ready = self.ready or bool(report.get("ready"))
        self.grace = float(report.get("grace", self.grace))
        self.failed = report.get("failed", self.failed)
        self.fatal = self.fatal or bool(report.get("fatal"))
        self.retired = self.retired or bool(report.get("retired"))

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        return ending(self.process.returncode)

    def state(self) -> dict[str, Any]:
        """For the board."""
        return {
            "worker": self.index,
            "pid": self.process.pid,
            "ready": self.ready and self.kill_at is None,
            "starting": not self.ready and not self.again,
            "failed": self.failed,
            "heard_ago": round(time.monotonic() - self.heard_at, 3),
            **{name: value for name, value in self.says.items() if name not in ("ready", "failed", "fatal", "retired")},
        }


def ending(code: int | None) -> str:
    """How a process ended, for people."""
    if code is None:
        return "still runs"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def heedless(_number: int, _frame: FrameType | None) -> None:
    """A signal handler that only keeps the default action from happening: somebody else heeds the signal."""
