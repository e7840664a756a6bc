"""Real workers and publishers in processes of their own, and the hands that torment them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from postbus import Bus
from postbus.testing.ledger import Ledger, Verdict, judge

HERE = Path(__file__).parent
SUBSCRIPTIONS = ("plain", "ordered")
# Seconds between two looks: who looks more often takes the time of those that are looked at.
_LOOK = 0.04


class Rig:
    """One store, one ledger, and the processes around them."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        lease: float = 1.0,
        concurrency: int = 10,
        grace: float = 5.0,
        pause: float = 0.0,
    ) -> None:
        self.url = url
        self.lease = lease
        self.concurrency = concurrency
        self.ledger = Ledger(folder / "ledger")
        self.frozen: set[int] = set()
        self._log = (folder / "workers.log").open("ab")
        self._started: list[subprocess.Popen[bytes]] = []
        self.env = {
            **os.environ,
            "RIG_URL": url,
            "RIG_LEDGER": str(self.ledger.path),
            "RIG_LEASE": str(lease),
            "RIG_GRACE": str(grace),
            "RIG_CONCURRENCY": str(concurrency),
            "RIG_PAUSE": str(pause),
        }

    def worker(self, *options: str, url: str | None = None) -> subprocess.Popen[bytes]:
        """Start `postbus worker`; `url` leads it to the store by another way."""
        return self._start("-m", "postbus", "worker", "app:bus", *options, url=url)

    def publisher(
        self, first: int, count: int, batch: int = 20, do: str = "work", *, url: str | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process that publishes `count` events, `batch` at a time."""
        return self._start("publisher.py", str(first), str(count), str(batch), do, url=url)

    def _start(self, *arguments: str, url: str | None = None) -> subprocess.Popen[bytes]:
        env = self.env if url is None else {**self.env, "RIG_URL": url}
        process = subprocess.Popen([sys.executable, *arguments], cwd=HERE, env=env, stdout=self._log, stderr=self._log)
        self._started.append(process)
        return process

    def running_pids(self, process: subprocess.Popen[bytes]) -> list[int]:
        """The processes under a supervisor that run subscribers."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        return []

    def kill(self, pid: int) -> None:
        """Kill -9."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def freeze(self, pid: int) -> None:
        """SIGSTOP: alive, and doing nothing."""
        os.kill(pid, signal.SIGSTOP)
        self.frozen.add(pid)

    def thaw(self, pid: int) -> None:
        """SIGCONT."""
        os.kill(pid, signal.SIGCONT)

    async def declared(self, *names: str) -> None:
        """Wait until the workers have declared these: the rig's own bus declares nothing."""
        async with self.bus() as bus:
            until = time.monotonic() + 30
            while not set(names) <= {info.name for info in await bus.subscriptions.list()}:
                assert time.monotonic() < until, self.log_tail()
                await asyncio.sleep(0.01)

    async def manned(self, count: int) -> None:
        """Wait until so many workers say that they run."""
        async with self.bus() as bus:
            until = time.monotonic() + 30
            while len(await bus.workers()) < count:
                assert time.monotonic() < until, self.log_tail()
                await asyncio.sleep(0.01)

    async def works(self, process: subprocess.Popen[bytes], *, since: float = 0.0) -> None:
        """Wait until a run of this worker has ended after `since`."""

        def it_does() -> bool:
            own = set(self.running_pids(process))
            return any(e.kind == "END" and e.at > since and e.pid in own for e in self.ledger.entries())

        await self.until(it_does, 30, "it works")

    def bus(self) -> Bus:
        """A bus on the same store, for looking; it declares nothing."""
        return Bus(self.url, declare=False)

    async def until(self, true: Callable[[], bool], timeout: float, what: str) -> None:
        """Wait for something that the ledger or the processes show."""
        until = time.monotonic() + timeout
        while not true():
            if time.monotonic() > until:
                raise AssertionError(f"not within {timeout:g} s: {what}\n{self.log_tail()}")
            await asyncio.sleep(_LOOK)

    async def more_ends(self, count: int) -> None:
        """Wait until so many more runs have ended."""
        enough = self.ledger.count("END") + count
        await self.until(lambda: self.ledger.count("END") >= enough, 60, f"{count} more runs end")

    async def drained(self, timeout: float) -> float:
        """Wait until nothing is left; return how long that took."""
        began = time.monotonic()
        async with self.bus() as bus:
            while True:
                stats = await bus.stats()
                if not any(s.backlog or s.in_flight or s.scheduled or s.retrying for s in stats.values()):
                    return time.monotonic() - began
                if time.monotonic() - began > timeout:
                    raise AssertionError(f"not drained within {timeout:g} s: {dict(stats)}\n{self.log_tail()}")
                await asyncio.sleep(_LOOK)

    async def verdict(self, **options: Any) -> Verdict:
        """Hold the ledger against the contract."""
        async with self.bus() as bus:
            dead = [(letter.subscription, str(letter.envelope.id)) async for letter in bus.dead.each()]
        return judge(
            self.ledger.entries(), SUBSCRIPTIONS, dead=dead, frozen=self.frozen, ordered=("ordered",), **options
        )

    def log_lines(self) -> int:
        """How many lines the workers have said."""
        return len(Path(self._log.name).read_text(errors="replace").splitlines())

    def log_tail(self, lines: int = 30) -> str:
        """What the workers said last."""
        return "\n".join(Path(self._log.name).read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """End what was started, children first."""
        for process in self._started:
            if process.poll() is None:
                for pid in self.running_pids(process):
                    self.kill(pid)
                process.kill()
            process.wait()
        self._log.close()
        self.ledger.close()


@contextlib.contextmanager
def rig(folder: Path, url: str, **options: Any) -> Iterator[Rig]:
    """A rig that leaves nothing running."""
    made = Rig(folder, url, **options)
    try:
        yield made
    finally:
        made.close()
