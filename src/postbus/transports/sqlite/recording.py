"""What SQLite remembers, in a file of its own beside the main one: no writer of events ever waits for it.

It is forced to no disk, so a power loss may damage it; then it begins anew.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ...clock import Clock
from ...errors import Closed
from ...recording import BOUNDS, Record, place_at
from .files import beside, forget_sidecar
from .store import connect_sidecar, is_damaged, patiently, translated

__all__ = ["Memoirs"]

T = TypeVar("T")

_CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
    kind TEXT NOT NULL, place TEXT NOT NULL, subject TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS {index} ON {table} (kind, subject, place) WHERE subject <> ''
"""
_PUT = "INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)"
_READ = (
    "SELECT place, subject, body FROM {table} WHERE kind = ? AND place >= ? AND place < ? ORDER BY place DESC LIMIT ?"
)
_READ_OF = (
    "SELECT place, subject, body FROM {table} WHERE kind = ? AND place >= ? AND place < ? AND subject = ? "
    "AND subject <> '' ORDER BY place DESC LIMIT ?"
)
# Places are digits first.
_BEYOND = "~"
_OLD = "DELETE FROM {table} WHERE kind = ? AND place < ?"
_MANY = (
    "DELETE FROM {table} WHERE kind = ? AND place <= "
    "(SELECT place FROM {table} WHERE kind = ? ORDER BY place DESC LIMIT 1 OFFSET ?)"
)
# Seconds between two looks at what is too old, and records after which one is due at once.
_EVERY, _OFTEN = 10.0, 500
_PATIENCE = 2.0


class Memoirs:
    """The file, opened when it is first needed; see `Recording`."""

    def __init__(self, main: Path, namespace: str, clock: Clock) -> None:
        self._path = beside(main, "-history")
        self._names = {"table": f'"{namespace}_journal"', "index": f'"{namespace}_journal_subject"'}
        self._wall = clock.time
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="postbus-sqlite-history")
        self._connection: sqlite3.Connection | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._looked_at = 0.0
        self._since = 0

    async def record(self, records: Sequence[Record]) -> None:
        """See `Recording.record`."""
        await self._do(lambda connection: self._write(connection, records))

    async def records(
        self, kind: str, *, subject: str | None = None, since: str = "", limit: int = 100, after: str | None = None
    ) -> Sequence[Record]:
        """See `Recording.records`."""
        sql = self._sql(_READ if subject is None else _READ_OF)
        values = (kind, since, after or _BEYOND, *(() if subject is None else (subject,)), limit)
        rows = await self._do(lambda connection: connection.execute(sql, values).fetchall())
        return [Record(kind, place, about, body) for place, about, body in rows]

    async def _do(self, act: Callable[[sqlite3.Connection], T]) -> T:
        with self._closing:
            if self._closed:
                raise Closed(f"the transport of {self._path.name} is closed")
            done = asyncio.get_running_loop().run_in_executor(self._thread, self._patiently, act)
        return await done

    def _patiently(self, act: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return patiently(lambda: act(self._open()), self._path, _PATIENCE)
        except Exception:
            self._shut()  # the next one opens it anew
            raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._opened()
            except sqlite3.DatabaseError as error:
                if not is_damaged(error):
                    raise
                forget_sidecar(self._path)
                self._connection = self._opened()
        return self._connection

    def _opened(self) -> sqlite3.Connection:
        connection = connect_sidecar(self._path, create=True)
        try:
            for statement in self._sql(_CREATE).split(";\n"):
                connection.execute(statement)
        except BaseException:
            connection.close()
            raise
        return connection

    def _write(self, connection: sqlite3.Connection, records: Sequence[Record]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows = [(record.kind, record.place, record.subject, record.body) for record in records]
            connection.executemany(self._sql(_PUT), rows)
            self._forget(connection, len(rows))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _forget(self, connection: sqlite3.Connection, count: int) -> None:
        """Now and then let go of what is too old or too much."""
        self._since += count
        if self._since < _OFTEN and time.monotonic() < self._looked_at + _EVERY:
            return
        self._since, self._looked_at = 0, time.monotonic()
        for kind, bound in BOUNDS.items():
            connection.execute(self._sql(_OLD), (kind, place_at(self._wall() - bound.age)))
            connection.execute(self._sql(_MANY), (kind, kind, bound.count))

    def _sql(self, text: str) -> str:
        return text.format(**self._names)

    def _shut(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                raise translated(error, self._path) from error

    def close(self) -> None:
        """Let go of the file."""
        with self._closing:
            self._closed = True
        self._thread.shutdown(wait=True)
        self._shut()
