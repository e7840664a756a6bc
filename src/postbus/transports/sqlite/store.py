"""One database file: how it is opened, what its errors mean, and the open write transaction that moves work in."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar
from weakref import WeakSet

from ...dice import dice
from ...errors import ConfigError, PostbusError, TransportError
from .routing import Routing
from .spans import Execute

__all__ = [
    "Busy",
    "CommitLost",
    "Connection",
    "Full",
    "Transaction",
    "connect_effects",
    "connect_main",
    "connect_sidecar",
    "is_busy",
    "is_damaged",
    "patiently",
    "translated",
]

T = TypeVar("T")


class Busy(TransportError):
    """The request did not start in time, because another connection held the write lock."""


class Full(TransportError):
    """There is no room on the disk; nothing was changed."""


class CommitLost(TransportError):
    """The commit itself failed: it may hold after a restart, or not."""


# What the codes of SQLite's errors mean to a caller, where its own text says too little.
_MEANING: Mapping[int, tuple[type[PostbusError], str]] = MappingProxyType(
    {
        sqlite3.SQLITE_BUSY: (Busy, "it is busy, another connection holds the write lock"),
        sqlite3.SQLITE_LOCKED: (Busy, "it is busy, another connection holds the write lock"),
        sqlite3.SQLITE_FULL: (Full, "the disk is full; free some space"),
        sqlite3.SQLITE_CANTOPEN: (
            TransportError,
            "it cannot be opened; may this user read and write in its directory?",
        ),
        sqlite3.SQLITE_READONLY: (TransportError, "this user may not write it"),
        sqlite3.SQLITE_NOTADB: (ConfigError, "it is no SQLite database; choose another path"),
    }
)

_PRIMARY = 0xFF  # the low byte of an extended result code


@dataclass(slots=True)
class Transaction:
    """An open write transaction, and the numbers it gives out.

    Attributes:
        execute: runs a statement in it.
        seq, fence, revision: the last ones given out.
        now: the wall clock when it began, for due times.
        routing: which subscription takes what, as of this transaction.
        rung: subscriptions that got work.
        ended: called when it has ended.
        committed: whether it was committed, once it has ended.
    """

    execute: Execute
    seq: int
    fence: int
    revision: int
    now: float
    routing: Routing
    rung: set[int]
    ended: list[Callable[[], None]]
    committed: bool = False


class Connection(sqlite3.Connection):
    """A connection that is found again after a fork."""


_OPEN: WeakSet[Connection] = WeakSet()


def _keep_in_child() -> None:
    """A forked child must never close what its parent uses, at its exit either: nothing there may be freed."""
    for connection in list(_OPEN):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_in_child)


def connect_main(path: Path, *, synchronous: str, reading: bool = False) -> sqlite3.Connection:
    """Open the main file.  A busy database is waited for by whoever calls, who knows for how long.

    Raises:
        ConfigError: when it cannot be a WAL database.
        sqlite3.Error: when it cannot be opened now.
    """
    connection = _connect(path, 1.0 if reading else 0.0, create=not reading)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        if reading:
            connection.execute("PRAGMA query_only = ON")
            return connection
        _use_log(connection, path)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_effects(path: Path, *, synchronous: str) -> sqlite3.Connection:
    """Open the main file for a subscriber's own writes: plain, but as durable as ours."""
    connection = _connect(path, 0.005, create=False)
    try:
        connection.execute(f"PRAGMA synchronous = {synchronous}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_sidecar(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open the sidecar file.  Nothing in it outlives the boot, so nothing in it is forced to disk."""
    connection = _connect(path, 5.0, create=create)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_log(connection: sqlite3.Connection, path: Path) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise ConfigError(f"{path} cannot use a write-ahead log (it stays in {mode!r} mode): use a local disk")


def _connect(path: Path, timeout: float, *, create: bool) -> sqlite3.Connection:
    """A file that was deleted must not come back empty, only because somebody looks into it."""
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={'rwc' if create else 'rw'}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        factory=Connection,
    )
    _OPEN.add(connection)
    return connection


def is_busy(error: sqlite3.Error) -> bool:
    """Whether trying again may help."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file is no database, or not any more."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def patiently(act: Callable[[], T], path: Path, patience: float) -> T:
    """Do `act`, again while the database is busy.

    Raises:
        Busy, TransportError: when it still is, or fails otherwise.
    """
    until = time.monotonic() + patience
    while True:
        try:
            return act()
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() >= until:
                raise translated(error, path) from error
        time.sleep(dice.uniform(0.0005, 0.005))


def translated(error: BaseException, path: Path) -> PostbusError:
    """What an error of SQLite's means to a caller; an error of ours stays as it is."""
    if isinstance(error, PostbusError):
        return error
    name = path.name
    if not isinstance(error, sqlite3.Error):
        return TransportError(f"{name}: {type(error).__name__}: {error}")
    kind, text = _MEANING.get(_code(error), (TransportError, str(error)))
    return kind(f"{name}: {text}")


def _code(error: sqlite3.Error) -> int:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return 0 if code is None else code & _PRIMARY
