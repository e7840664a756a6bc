"""Tells workers which subscriptions may have work: rung by this process's own commits, and by a watch on others'."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Set

from ...clock import Clock
from ...errors import Closed, PostbusError, TransportBroken
from .files import Place
from .schema import Tables

__all__ = ["Doorbell"]

log = logging.getLogger("postbus")

# Seconds between two looks at `data_version`: while something moved within the last second, and when not.
_AWAKE, _DROWSY = 0.001, 0.008
_LULL = 1.0
# A look at the tables may take this share of the time.
_SHARE = 0.04
_HEARTBEAT = 1.0
# Leases may be so short that the dead are looked for this often, but not more.
_SWEEP = 0.05


class _Waiter:
    __slots__ = ("future", "loop", "names")

    def __init__(self, names: frozenset[str], loop: asyncio.AbstractEventLoop) -> None:
        self.names = names
        self.loop = loop
        self.future: asyncio.Future[frozenset[str]] = loop.create_future()


class Doorbell:
    """Rings once for each change, and remembers what rang while nobody waited.  A backlog by itself does not ring."""

    def __init__(
        self,
        tables: Tables,
        clock: Clock,
        place: Place,
        *,
        connect: Callable[[], sqlite3.Connection],
        sweep: Callable[[], None],
        pace: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._place = place
        self._connect = connect
        self._sweep = sweep
        self._pace = pace
        self._look = tables(
            "SELECT name, EXISTS (SELECT 1 FROM {ready} WHERE subscription = s.id) "
            "OR EXISTS (SELECT 1 FROM {suspect} WHERE subscription = s.id), "
            "(SELECT min(due) FROM {later} WHERE subscription = s.id) "
            "FROM {subscription} s WHERE name IS NOT NULL AND NOT paused"
        )
        self._lock = threading.Lock()
        self._waiters: list[_Waiter] = []
        self._known: set[str] = set()
        self._rung: set[str] = set()
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: PostbusError | None = None

    async def wait(self, names: Collection[str], timeout: float) -> Set[str]:
        """Wait until one of these may have got work since the last call, or for `timeout` seconds."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            wanted = frozenset(names)
            rung = wanted - self._known | wanted & self._rung
            if rung:
                self._known |= wanted
                self._rung -= rung
                return rung
            waiter = _Waiter(wanted, loop)
            self._waiters.append(waiter)
            self._start()
        timer = loop.call_later(timeout, _give, waiter, frozenset())
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():  # it rang, and nobody came to the door
                self.remember(waiter.future.result())
            raise
        finally:
            timer.cancel()
            self._forget(waiter)

    def ring(self, names: Iterable[str]) -> None:
        """These may have got work."""
        rung = frozenset(names)
        with self._lock:
            woken = [waiter for waiter in self._waiters if not rung.isdisjoint(waiter.names)]
            if woken:
                self._waiters = [waiter for waiter in self._waiters if rung.isdisjoint(waiter.names)]
            self._rung |= rung.difference(*(waiter.names for waiter in woken))
        for waiter in woken:
            self._tell(waiter, rung & waiter.names)

    def close(self) -> None:
        """End the watch; whoever waits is told."""
        with self._lock:
            self._failure = self._failure or Closed("the transport is closed")
        self._stopped.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()
        self._fail(self._failure)

    # -- the waiters

    def _tell(self, waiter: _Waiter, rung: frozenset[str]) -> None:
        try:
            waiter.loop.call_soon_threadsafe(self._answer, waiter, rung)
        except RuntimeError:  # that loop is closed
            self.remember(rung)

    def _answer(self, waiter: _Waiter, rung: frozenset[str]) -> None:
        if waiter.future.done():  # it stopped waiting meanwhile: the next one hears it
            self.remember(rung)
        else:
            waiter.future.set_result(rung)

    def remember(self, names: Iterable[str]) -> None:
        """Ring for whoever waits next."""
        with self._lock:
            self._rung.update(names)

    def _forget(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _fail(self, error: PostbusError) -> None:
        with self._lock:
            self._failure = error
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            try:
                waiter.loop.call_soon_threadsafe(_raise, waiter, error)
            except RuntimeError:  # that loop is closed
                continue

    # -- the watch

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="postbus-sqlite-doorbell", daemon=True)
            self._thread.start()
        self._wanted.set()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while not self._stopped.is_set():
                try:
                    connection = connection or self._connect()
                    self._watch(connection)
                except sqlite3.Error as error:
                    self._place.check()
                    log.debug("the doorbell cannot look at %s: %s", self._place.name, error)
                    self._stopped.wait(0.1)  # look again; workers poll anyhow
        except TransportBroken as error:
            self._fail(error)
        finally:
            if connection is not None:
                connection.close()

    def _watch(self, connection: sqlite3.Connection) -> None:
        """Look at the file's version, which changes with each commit of another connection; no snapshot is held."""
        version, due, scan_at, moved_at = -1, None, 0.0, 0.0
        swept_at = heartbeat_at = time.monotonic()
        changed = True
        while not self._stopped.is_set():
            if not self._waiters:
                self._wanted.clear()
                if not self._waiters:
                    self._wanted.wait()
            (seen,) = connection.execute("PRAGMA data_version").fetchone()
            now = time.monotonic()
            if seen != version:
                version, changed, moved_at = seen, True, now
            is_due = due is not None and self._clock.time() >= due
            if (changed or is_due) and now >= scan_at:
                changed, due = False, self._scan(connection)
                scan_at = time.monotonic() + (time.monotonic() - now) / _SHARE
            if now >= heartbeat_at:
                self._place.check()
                heartbeat_at = now + _HEARTBEAT
            if now - swept_at >= max(_SWEEP, self._pace()):
                self._sweep()
                swept_at = now
            self._stopped.wait(_AWAKE if now - moved_at < _LULL else _DROWSY)

    def _scan(self, connection: sqlite3.Connection) -> float | None:
        """Ring for what has work; return when the next delayed one is due."""
        now = self._clock.time()
        rung: list[str] = []
        later: float | None = None
        for name, work, due in connection.execute(self._look).fetchall():
            if work or (due is not None and due <= now):
                rung.append(name)
            elif due is not None and (later is None or due < later):
                later = due
        if rung:
            self.ring(rung)
        return later


def _give(waiter: _Waiter, names: frozenset[str]) -> None:
    if not waiter.future.done():
        waiter.future.set_result(names)


def _raise(waiter: _Waiter, error: PostbusError) -> None:
    if not waiter.future.done():
        waiter.future.set_exception(error)
