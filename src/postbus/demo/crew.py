"""The worker processes of a run: started, killed, restarted, and watched.  Each is what `postbus worker` starts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from .place import PARENT, VARIABLE

__all__ = ["COMMAND", "Crew", "CrewFailed", "Worker", "program_environment"]

COMMAND = (sys.executable, "-m", "postbus", "worker", "postbus.demo.app:bus")

# A worker that does not live this long never got to work; so many in a row are a fault of the program.
STILLBORN = 1.0
PATIENCE = 3

State: TypeAlias = Literal["running", "killed", "stopping", "gone"]


class CrewFailed(Exception):
    """The workers cannot be kept running."""


@dataclass(slots=True)
class Worker:
    """One process.

    Attributes:
        number: its place in the crew; a successor gets a number of its own.
    """

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    started_at: float
    state: State = "running"
    ended_at: float | None = None

    @property
    def pid(self) -> int:
        """The process's id."""
        return self.process.pid

    @property
    def age(self) -> float:
        """Seconds since it was started, or for which it lived."""
        return (self.ended_at or time.monotonic()) - self.started_at


def program_environment(folder: Path) -> dict[str, str]:
    """This process's environment for the others: with the demo's folder, and without settings meant for another bus."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POSTBUS_")}
    return kept | {VARIABLE: str(folder), PARENT: str(os.getpid())}


class Crew:
    """Keeps `size` workers running until it is told to stop."""

    def __init__(self, folder: Path, size: int, command: tuple[str, ...] = COMMAND) -> None:
        self.workers: list[Worker] = []
        self._folder = folder
        self._size = size
        self._command = command
        self._stillborn = 0

    def start(self) -> None:
        """Start all."""
        for _ in range(self._size):
            self._hire()

    def running(self) -> list[Worker]:
        """Those that work."""
        return [worker for worker in self.workers if worker.state == "running"]

    def kill(self, worker: Worker) -> None:
        """End a process as a power cut would: it gets no chance to say so."""
        worker.process.kill()
        worker.process.wait()
        self._note_end(worker, "killed")

    def stop(self, worker: Worker) -> None:
        """Ask a process to finish what runs and hand back the rest."""
        worker.state = "stopping"
        worker.process.send_signal(signal.SIGTERM)

    def look(self) -> list[Worker]:
        """Notice which processes have ended without being asked, and hire others in their place.

        Raises:
            CrewFailed: when they end as soon as they start.
        """
        fallen = []
        for worker in self.workers:
            if worker.state in ("running", "stopping") and worker.process.poll() is not None:
                asked = worker.state == "stopping"
                self._note_end(worker, "gone" if asked else "killed")
                if not asked:
                    fallen.append(worker)
                    self._stillborn = self._stillborn + 1 if worker.age < STILLBORN else 0
        if self._stillborn >= PATIENCE:
            log = fallen[-1].log if fallen else self.workers[-1].log
            raise CrewFailed(f"{PATIENCE} workers ended as soon as they started; the last one said:\n{_tail(log)}")
        return fallen

    def fill(self) -> list[Worker]:
        """Hire as many as are missing, and return them."""
        return [self._hire() for _ in range(self._size - len(self.running()))]

    async def dismiss(self, within: float) -> None:
        """Stop all, and end those that have not stopped in time."""
        for worker in self.running():
            self.stop(worker)
        await asyncio.gather(*(asyncio.to_thread(_wait, worker.process, within) for worker in self.workers))
        for worker in self.workers:
            if worker.process.poll() is None:
                self.kill(worker)
            elif worker.state == "stopping":
                self._note_end(worker, "gone")

    def _hire(self) -> Worker:
        number = len(self.workers) + 1
        log = self._folder / f"worker-{number}.log"
        with log.open("wb") as file:
            worker = Worker(number, self._spawn(file), log, time.monotonic())
        self.workers.append(worker)
        return worker

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal is for the demo, which then stops its workers in order.
        return subprocess.Popen(  # noqa: S603 - this interpreter, our own module, no shell
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=program_environment(self._folder),
            start_new_session=True,
        )

    def _note_end(self, worker: Worker, state: State) -> None:
        worker.state = state
        worker.ended_at = time.monotonic()


def _wait(process: subprocess.Popen[bytes], within: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(within)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:]) or "(nothing)"
