"""`postbus` in processes of its own, and the ledger that its subscribers write: started, awaited and ended by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

__all__ = ["DEEDS", "SOON", "Line", "Running", "Shop"]

DEEDS = Path(__file__).parent
# A deadline for what should take a moment, however slow the machine is.
SOON = 30.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the ledger."""

    what: str
    number: int
    attempt: int
    pid: int


class Shop:
    """One store, one ledger, and the environment that the program in deeds.py reads."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/deeds.db"
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.env = {"DEEDS_URL": self.url, "DEEDS_LEDGER": str(self.ledger), **env}

    def lines(self, what: str | None = None) -> list[Line]:
        """What was written until now."""
        found = [line.split() for line in self.ledger.read_text().splitlines()]
        lines = [Line(line[0], int(line[1]), int(line[2]), int(line[3])) for line in found]
        return lines if what is None else [line for line in lines if line.what == what]

    def until(self, so: Callable[[], object], patience: float = SOON) -> None:
        """Wait until something is so."""
        end = time.monotonic() + patience
        while not so():
            assert time.monotonic() < end, f"not within {patience:g} s; the ledger says:\n{self.ledger.read_text()}"
            time.sleep(0.01)

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `postbus` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "postbus", *arguments],
            cwd=DEEDS,
            env={**os.environ, **self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SOON,
            check=False,
        )

    def start(self, *arguments: str) -> Running:
        """Start `postbus`."""
        return Running(self, arguments)


class Running:
    """A `postbus` that runs; leaving the block ends it with all its processes, by pid."""

    def __init__(self, shop: Shop, arguments: tuple[str, ...]) -> None:
        self.shop = shop
        self.log = shop.folder / f"log-{time.monotonic_ns()}"
        self._file = self.log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "postbus", *arguments],
            cwd=DEEDS, env={**os.environ, **shop.env}, stdin=subprocess.DEVNULL, stdout=self._file, stderr=self._file,
        )  # fmt: skip
        self._seen: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        everybody = {*self.family(), *self._seen}
        for process in everybody:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(everybody, timeout=SOON)
        self._file.close()

    def family(self) -> set[psutil.Process]:
        """Every process below it that lives."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        return {process for process in self._seen if alive(process.pid)}

    def workers(self) -> list[int]:
        """The pids of its worker processes."""
        return [process.pid for process in self.family() if "postbus.cli.process" in command_of(process)]

    def isolates(self) -> list[int]:
        """The pids of the child processes that run isolated deliveries."""
        return [process.pid for process in self.family() if "postbus.isolate" in command_of(process)]

    def said(self) -> str:
        """Its log until now."""
        return self.log.read_text()

    def says(self, text: str, times: int = 1) -> None:
        """Wait until the log holds this text so often."""
        end = time.monotonic() + SOON
        while self.said().count(text) < times:
            assert time.monotonic() < end, f"{text!r} is not in the log:\n{self.said()}"
            assert self.process.poll() is None or self.said().count(text) >= times, self.said()
            time.sleep(0.01)

    def is_ready(self, times: int = 1) -> Self:
        """Wait until so many worker processes were ready, since it started."""
        self.says(" runs ", times)
        self.family()
        return self

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ends(self, patience: float = SOON) -> int:
        """Wait for its end; return the exit code."""
        return self.process.wait(patience)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be noticed does not."""
    try:
        return str(psutil.Process(pid).status()) != str(psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()
    return []
