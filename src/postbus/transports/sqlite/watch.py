"""The thread that sees what others commit: it rings for what has work, and has the dead looked for."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable

from ...clock import Clock
from ...errors import TransportBroken
from .doorbell import Doorbell
from .files import Place, beside
from .nudge import Nudge
from .schema import Tables

__all__ = ["Watch"]

log = logging.getLogger("postbus")

# Seconds between two looks at `data_version`, by how many seconds ago it moved or a commit began: where the system
# tells of writes, and where nobody does.
_TOLD = ((0.003, 0.0003), (0.05, 0.0005), (0.25, 0.002), (float("inf"), 0.1))
_UNTOLD = ((0.05, 0.0005), (1.0, 0.001), (float("inf"), 0.01))
# A look at the tables may use this share of a core; without new events, what moved may wait for so many seconds.
_SHARE = 0.1
_MOVED = 0.01
_HEARTBEAT = 1.0
# Leases may be so short that the dead are looked for this often, but not more.
_SWEEP = 0.05


class Watch:
    """Looks while somebody waits, and only then.  Holds no snapshot between two looks."""

    def __init__(
        self,
        tables: Tables,
        clock: Clock,
        place: Place,
        *,
        connect: Callable[[], sqlite3.Connection],
        sweep: Callable[[], None],
        pace: Callable[[], float],
        ours: Callable[[], int],
    ) -> None:
        self.doorbell = Doorbell(self._begin)
        self._clock = clock
        self._place = place
        self._connect = connect
        self._sweep = sweep
        self._pace = pace
        self._ours = ours
        self._last = tables("SELECT seq FROM {meta}")
        self._look = tables(
            "SELECT name, EXISTS (SELECT 1 FROM {ready} WHERE subscription = s.id) "
            "OR EXISTS (SELECT 1 FROM {suspect} WHERE subscription = s.id), "
            "(SELECT min(due) FROM {later} WHERE subscription = s.id) "
            "FROM {subscription} s WHERE name IS NOT NULL AND NOT paused"
        )
        self._beginning = threading.Lock()
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._nudge: Nudge | None = None

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._wanted.set()
        with self._beginning:
            thread = self._thread
        if thread is not None and self._nudge is not None:
            self._nudge.wake()
            thread.join()
            self._nudge.close()

    def _begin(self) -> None:
        """Somebody waits: look again, or for the first time."""
        if self._thread is None:
            with self._beginning:
                if self._thread is None and not self._stopped.is_set():
                    self._nudge = Nudge(beside(self._place.path, "-wal"))
                    self._thread = threading.Thread(
                        target=self._run, args=(self._nudge,), name="postbus-sqlite-watch", daemon=True
                    )
                    self._thread.start()
        self._wanted.set()

    def _run(self, nudge: Nudge) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while not self._stopped.is_set():
                try:
                    connection = connection or self._connect()
                    self._watch(connection, nudge)
                except sqlite3.Error as error:
                    self._place.check()
                    log.debug("the doorbell cannot look at %s: %s", self._place.name, error)
                    nudge.sleep(0.1)  # look again; workers poll anyhow
        except TransportBroken as error:
            self.doorbell.fail(error)
        finally:
            if connection is not None:
                connection.close()

    def _watch(self, connection: sqlite3.Connection, nudge: Nudge) -> None:
        """Look at the file's version, which changes with each commit of another connection."""
        paces = _TOLD if nudge.tells else _UNTOLD
        version, last, due, scan_at, moved_at = -1, -1, None, 0.0, 0.0
        changed = appended = True
        swept_at = checked_at = time.monotonic()
        while not self._stopped.is_set():
            self._rest()
            (seen,) = connection.execute("PRAGMA data_version").fetchone()
            now = time.monotonic()
            if seen != version:
                version, changed, moved_at = seen, True, now
                before, (last,) = last, connection.execute(self._last).fetchone()
                # What this process appended has rung already; claims and settles seldom make work.
                appended = appended or (last != before and last != self._ours())
            if (changed or self._is_due(due)) and now >= (scan_at if appended else scan_at + _MOVED):
                used = time.thread_time()
                changed, appended, due = False, False, self._scan(connection)
                scan_at = now + (time.thread_time() - used) / _SHARE
            if now - checked_at >= _HEARTBEAT:
                self._place.check()
                checked_at = now
            if now - swept_at >= max(_SWEEP, self._pace()):
                self._sweep()
                swept_at = now
            pause = next(pause for lull, pause in paces if now - moved_at < lull)
            if due is not None:
                pause = min(pause, max(0.0005, due - self._clock.time()))
            if nudge.sleep(pause):
                moved_at = time.monotonic()

    def _rest(self) -> None:
        """Sleep while nobody waits."""
        if not self.doorbell.wanted:
            self._wanted.clear()
            if not self.doorbell.wanted and not self._stopped.is_set():
                self._wanted.wait()

    def _is_due(self, due: float | None) -> bool:
        return due is not None and self._clock.time() >= due

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
            self.doorbell.ring(rung)
        return later
