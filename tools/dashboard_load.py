"""Measures the dashboard under load: `python -m tools.dashboard_load [sqlite|redis|postgres|URL] [LETTERS]`.

One process publishes and handles 10,000 events a second; another serves the dashboard of the same store, which holds a
hundred thousand dead letters of one problem; this one is fifty browsers, each with a stream, of which every ten seconds
each opens another page.  Prints how long pages take, what everybody uses of the machine, and what the bus handles in
turns with the dashboard at work and with the dashboard stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psutil

from postbus import Bus
from postbus.delivery import Bury, Failure

from .flowing import PLACE, Broke, bus_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # it is no package

from server_kinds import Kind, PostgresKind, RedisKind
from servers import Server

STREAMS, LETTERS, PORT = 50, 100_000, 8931
ROUNDS, SECONDS, SETTLING = 4, 5.0, 1.5
# Fifty browsers open a page every ten seconds each.
ASKED_EVERY = 10 / STREAMS
PAGES = ("/", "/topics", "/subscriptions", "/subscriptions/steady", "/events", "/retries", "/dead", "/workers",
         "/system", "/catalogue", "/dead/letters?sub=broken")  # fmt: skip
STREAMED = 7
KINDS: dict[str, Callable[[], Kind]] = {"redis": RedisKind, "postgres": lambda: PostgresKind(fsync=True)}


async def bury(bus: Bus, count: int) -> None:
    """So many dead letters of one problem."""
    transport = bus.transport
    for start in range(0, count, 1000):
        await bus.publish_many([Broke(n) for n in range(start, min(count, start + 1000))])
        while (claimed := await transport.claim("broken", owner="load", limit=500, lease=60)).deliveries:
            outcomes = [
                (d, Bury("attempts spent", Failure("builtins.OSError", f"no route to host 10.0.0.{n}")))
                for n, d in enumerate(claimed.deliveries)
            ]
            await transport.settle(outcomes)


class Flow:
    """The process that publishes and handles."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "tools.flowing"], stdout=subprocess.PIPE, text=True)
        self._at: list[float] = []
        self._handled: list[int] = []
        self._reading = asyncio.create_task(asyncio.to_thread(self._read))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            handled, at = line.split()
            self._handled.append(int(handled))
            self._at.append(float(at))

    async def rate(self, seconds: float) -> float:
        """Handled per second, over so long from now on."""
        began = time.monotonic()
        await asyncio.sleep(seconds + 0.3)
        first, last = (bisect_left(self._at, at) for at in (began, began + seconds))
        if last >= len(self._at):
            sys.exit("nothing flows")
        return (self._handled[last] - self._handled[first]) / (self._at[last] - self._at[first])


class Used:
    """What processes use of the machine, with their children."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self.seconds = dict.fromkeys(pids, 0.0)
        self._began = self._now()

    def begin(self) -> None:
        """From now on."""
        self._began = self._now()

    def end(self) -> None:
        """Until now."""
        now = self._now()
        for name in self.seconds:
            self.seconds[name] += now[name] - self._began[name]

    def _now(self) -> dict[str, float]:
        return {name: sum(map(_seconds_of, _family(pid))) for name, pid in self._pids.items()}


def _family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *(process.children(recursive=True) if pid != os.getpid() else ())]


def _seconds_of(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


async def stream(path: str, got: list[int]) -> None:
    """One browser's worth of a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT, limit=1 << 24)
    writer.write(f"GET {path}?live=2 HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\n\r\n".encode())
    try:
        while block := await reader.read(1 << 20):
            got[0] += block.count(b"\r\n\r\n")
            got[1] += len(block)
    finally:
        writer.close()


async def ask(path: str) -> float:
    """Seconds until the whole page is there."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT, limit=1 << 24)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        sys.exit(f"{path}: {answer[:300]!r}")
    return time.perf_counter() - began


async def browse(took: dict[str, list[float]], enough: asyncio.Event) -> None:
    """Open one page after the other until it is enough, each at its time or when the one before it is there."""
    due = time.monotonic()
    number = sum(map(len, took.values()))
    while not enough.is_set():
        page = PAGES[number % len(PAGES)]
        took[page].append(await ask(page))
        number += 1
        due = max(due + ASKED_EVERY, time.monotonic())
        await asyncio.sleep(due - time.monotonic())


@contextmanager
def serving() -> Iterator[subprocess.Popen[bytes]]:
    """The process that serves the dashboard."""
    command = [sys.executable, "-m", "postbus", "dashboard", "tools.flowing:bus", "--port", str(PORT)]
    pages = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        assert pages.stderr is not None
        pages.stderr.readline()
        yield pages
    finally:
        pages.send_signal(signal.SIGCONT)
        pages.terminate()
        pages.wait()


async def measure(url: str, letters: int, server: int | None) -> None:
    """Measure."""
    os.environ[PLACE] = f"{url}#load{uuid4().hex[:6]}"
    shared = bus_of(os.environ[PLACE])
    async with shared:
        began = time.monotonic()
        await bury(shared, letters)
        print(f"{letters:,} dead letters in {time.monotonic() - began:.1f} s", flush=True)
        flowing = Flow()
        try:
            with serving() as pages:
                await _rounds(flowing, pages, server)
        finally:
            flowing.process.terminate()


async def _rounds(flowing: Flow, pages: subprocess.Popen[bytes], server: int | None) -> None:
    got = [0, 0]
    streams = [asyncio.create_task(stream(PAGES[n % STREAMED], got)) for n in range(STREAMS)]
    took: dict[str, list[float]] = {page: [] for page in PAGES}
    used = Used(
        dashboard=pages.pid, bus=flowing.process.pid, browsers=os.getpid(), **({"server": server} if server else {})
    )
    ratios, alones = [], []
    await asyncio.sleep(SETTLING)
    for number in range(ROUNDS):
        rates = {}
        for state in ("alone", "beside") if number % 2 else ("beside", "alone"):
            if state == "alone":
                pages.send_signal(signal.SIGSTOP)
                await asyncio.sleep(SETTLING)
                rates[state] = await flowing.rate(SECONDS)
                pages.send_signal(signal.SIGCONT)
            else:
                await asyncio.sleep(SETTLING)
                enough = asyncio.Event()
                browsing = asyncio.create_task(browse(took, enough))
                used.begin()
                rates[state] = await flowing.rate(SECONDS)
                used.end()
                enough.set()
                await browsing
        ratios.append(rates["beside"] / rates["alone"])
        alones.append(rates["alone"])
        print(
            f"round {number + 1}: {rates['alone']:,.0f} alone, {rates['beside']:,.0f} beside, {ratios[-1]:.3f}",
            flush=True,
        )
    for one in streams:
        one.cancel()
    for page, times in took.items():
        times.sort()
        print(f"{page:28} {len(times):4} times  median {statistics.median(times) * 1000:6.1f} ms  "
              f"p95 {times[int(len(times) * 0.95)] * 1000:6.1f} ms  worst {times[-1] * 1000:6.1f} ms")  # fmt: skip
    every = sorted(one for times in took.values() for one in times)
    print(f"all pages                    {len(every):4} times  p95 {every[int(len(every) * 0.95)] * 1000:6.1f} ms")
    print(f"{STREAMS} streams got {got[0]:,} messages, {got[1] / 1e6:.1f} MB")
    print(
        "cores used: " + ", ".join(f"{name} {s / (ROUNDS * (SECONDS + 0.3)):.2f}" for name, s in used.seconds.items())
    )
    print(f"handled per second: {statistics.median(alones):,.0f} alone; beside the dashboard "
          f"{statistics.median(ratios):.3f} of it ({min(ratios):.3f}..{max(ratios):.3f})")  # fmt: skip


def main(words: list[str]) -> None:
    """Find or start the store, and measure."""
    where, letters = (words or ["sqlite"])[0], int(words[1]) if words[1:] else LETTERS
    if where in KINDS:
        with Server(KINDS[where]()) as server:
            asyncio.run(measure(server.url, letters, server.pid))
    elif where == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(f"sqlite:///{folder}/load.db", letters, None))
    else:
        asyncio.run(measure(where, letters, None))


if __name__ == "__main__":
    main(sys.argv[1:])
