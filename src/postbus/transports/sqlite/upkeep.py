"""Keeps the house small: forgets old ids and history in bounded bites, finishes retirements, folds the log back in."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...clock import Clock
from .declaring import Declaring
from .ids import BUCKET
from .schema import Tables
from .spans import Execute
from .store import Transaction

__all__ = ["Upkeep"]

log = logging.getLogger("postbus")

# Rows that one transaction deletes, so that no commit stalls.
_BITE = 500
# After this many quiet seconds the write-ahead log is folded into the file and cut to nothing.
_QUIET = 5.0
# A log of this many bytes is folded in at once.
_LOG_LIMIT = 64 * 1024 * 1024
# Seconds before the next attempt, where a reader holds on to the log.
_HELD_UP = 2.0
_SOON = 0.005
# How long it is remembered that a transactional subscriber is done with an event.
_MARKED = 7 * 24 * 3600.0


class _Bite:
    """Rows of one table that are too old."""

    def __init__(self, tables: Tables, table: str, old: str, key: str, limit: Callable[[float], float]) -> None:
        self._limit = limit
        self._find = tables("SELECT 1 FROM {table} WHERE {old} LIMIT 1", table, old=old)
        self._delete = tables(
            "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {old} LIMIT ?)",
            table,
            old=old,
            key=key,
        )

    def there(self, execute: Execute, now: float) -> bool:
        return execute(self._find, (self._limit(now),)).fetchone() is not None

    def take(self, execute: Execute, now: float) -> None:
        execute(self._delete, (self._limit(now), _BITE))


class Upkeep:
    """What is looked after when there is nothing better to do, and now and then while there is."""

    def __init__(
        self, tables: Tables, clock: Clock, declaring: Declaring, log_file: Path, retain: float | None
    ) -> None:
        self._clock = clock
        self._declaring = declaring
        self._log_file = log_file
        self._retain = retain
        self._warned_at = float("-inf")
        self._bites = [
            _Bite(tables, "seen", "bucket < ?", "bucket, id", lambda now: now // BUCKET - 1),
            _Bite(tables, "seen_together", "bucket < ?", "bucket, low", lambda now: now // BUCKET - 1),
            _Bite(tables, "event", "pending = 0 AND keep_until < ?", "seq", lambda now: now),
            _Bite(tables, "done", "done_at < ?", "subscription, id", lambda now: now - _MARKED),
        ]

    def peek(self, connection: sqlite3.Connection) -> bool | None:
        """False when there is nothing to tidy."""
        now = self._clock.time()
        old = any(bite.there(connection.execute, now) for bite in self._bites)
        unfinished = self._declaring.unfinished(connection.execute, now)
        return None if old or unfinished else False

    def tidy(self, transaction: Transaction) -> bool:
        """Take one bite of everything; there may be more."""
        for bite in self._bites:
            bite.take(transaction.execute, transaction.now)
        self._declaring.finish(transaction)
        return True

    def look(self, tidy: Callable[[], bool], fold: Callable[[], Any], quiet_since: float) -> float | None:
        """Do what is to be done; return when to look again, in seconds, or None: not before something changed."""
        if tidy():
            return _SOON
        quiet = time.monotonic() - quiet_since
        size = self._log_size()
        if size and (quiet >= _QUIET or size > _LOG_LIMIT):
            if fold():
                self._warn(size)
                return _HELD_UP
            size = 0
        if size:
            return max(_SOON, _QUIET - quiet)
        return None if self._retain is None else _QUIET

    def _log_size(self) -> int:
        try:
            return self._log_file.stat().st_size
        except OSError:
            return 0

    def _warn(self, size: int) -> None:
        now = time.monotonic()
        if size > _LOG_LIMIT and now - self._warned_at > 60:
            self._warned_at = now
            log.warning(
                "%s has grown to %d MB, because another connection reads for long: end its transaction",
                self._log_file, size // 1024 // 1024,
            )  # fmt: skip
