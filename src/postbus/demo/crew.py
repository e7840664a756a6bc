"""The worker processes of a run, under the supervisor that `postbus worker` is: started, replaced, killed, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .place import PARENT, VARIABLE

__all__ = ["Crew", "CrewFailed", "alive", "program_environment"]

# Until a process that was killed is seen to be gone.
GONE = 2.0


class CrewFailed(Exception):
    """The workers cannot be kept running."""


def program_environment(folder: Path) -> dict[str, str]:
    """This process's environment for the others: with the demo's folder, and without settings meant for another bus."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POSTBUS_")}
    return kept | {VARIABLE: str(folder), PARENT: str(os.getpid())}


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there is, and it is not ours
        return True
    return True


class Crew:
    """One supervisor and its workers."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._log = folder / "workers.log"
        self._size = size
        self._supervisor: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the supervisor, which starts the workers."""
        command = (sys.executable, "-m", "postbus", "worker", "postbus.demo.app:bus", "--workers", str(self._size))
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal is for the demo, which then ends its workers in order.
            self._supervisor = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=program_environment(self._folder),
                start_new_session=True,
            )

    def check(self) -> None:
        """Make sure that the supervisor runs.

        Raises:
            CrewFailed: with what it said last.
        """
        if self._supervisor is not None and self._supervisor.poll() is not None:
            said = "\n".join(self._log.read_text(errors="replace").splitlines()[-12:]) or "(nothing)"
            raise CrewFailed(f"the workers ended with exit code {self._supervisor.returncode}, and said:\n{said}")

    async def kill(self, pid: int) -> None:
        """End one worker as a power cut would, with no chance to say so; return when it is gone."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(GONE):
                await _until(lambda: not alive(pid))

    def replace_all(self) -> None:
        """Ask for what a deploy does: every worker is replaced, each when its successor is ready."""
        if self._supervisor is not None:
            self._supervisor.send_signal(signal.SIGHUP)

    async def dismiss(self, within: float) -> None:
        """End all: let the running finish and the rest be handed back, and kill what does not end in time."""
        if self._supervisor is None or self._supervisor.poll() is not None:
            return
        self._supervisor.terminate()
        try:
            await asyncio.to_thread(self._supervisor.wait, within)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()  # its children notice that it is gone, and end
            self._supervisor.wait()


async def _until(fact: Callable[[], bool]) -> None:
    while not fact():  # noqa: ASYNC110 - no event tells that another's child has gone
        await asyncio.sleep(0.005)
