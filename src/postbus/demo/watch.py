"""Keeps an eye on a run: reads the workers' records as they grow, asks the bus for its figures, follows who died."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from postbus import Bus, Stats

from .airport import MEANT_FOR
from .crew import Crew, Worker
from .ledger import Killed
from .records import Entry, Reader
from .sight import Delivery, Lane, Tally, WorkerSight

__all__ = ["Orphans", "Watch"]

FIGURES = 0.4


@dataclass(slots=True)
class Orphans:
    """What a killed worker had started and not ended."""

    killed: Killed
    unfinished: int
    left: set[Delivery]


class Watch:
    """What is known of the workers and the bus, at one moment after another.

    Attributes:
        entries: every line of every worker's record, as read so far.
        killed: the workers that were killed.
        progressed_at: when a worker last wrote something.
    """

    def __init__(self, bus: Bus, crew: Crew, reader: Reader) -> None:
        self.entries: list[Entry] = []
        self.killed: list[Killed] = []
        self.progressed_at = time.monotonic()
        self._bus = bus
        self._crew = crew
        self._reader = reader
        self._tally = Tally()
        self._orphans: list[Orphans] = []
        self._worker_by_pid: dict[int, int] = {}
        self._stats = Stats()
        self._asked_at = float("-inf")

    async def look(self) -> list[Orphans]:
        """Take in what is new; return the orphans whose last delivery was done meanwhile."""
        self.read()
        if time.monotonic() - self._asked_at > FIGURES:
            await self.ask()
        done = [orphans for orphans in self._orphans if not orphans.left]
        self._orphans = [orphans for orphans in self._orphans if orphans.left]
        return done

    async def ask(self) -> None:
        """Ask the bus how its subscriptions stand."""
        self._stats = await self._bus.stats()
        self._asked_at = time.monotonic()

    def read(self) -> None:
        """Read what the workers wrote since the last time."""
        entries = self._reader.new_entries()
        if not entries:
            return
        self.progressed_at = time.monotonic()
        self.entries += entries
        self._tally.add(entries)
        for entry in entries:
            if entry.pid not in self._worker_by_pid:
                self._worker_by_pid[entry.pid] = self._worker_behind(entry.pid)
            if entry.what == "done":
                for orphans in self._orphans:
                    orphans.left.discard((entry.subscription, entry.event))

    def _worker_behind(self, pid: int) -> int:
        """Which worker a process belongs to: each was started in a session of its own, and its children share it."""
        try:
            session = os.getsid(pid)
        except (AttributeError, ProcessLookupError):  # not on Windows; or it has ended already
            session = pid
        return next((worker.number for worker in self._crew.workers if worker.pid in (pid, session)), 0)

    def pids_of(self, worker: Worker) -> frozenset[int]:
        """Every process that ran deliveries for this worker."""
        return frozenset({worker.pid, *(pid for pid, number in self._worker_by_pid.items() if number == worker.number)})

    def running_in(self, worker: Worker) -> set[Delivery]:
        """What this worker has started and not ended."""
        return set().union(*(self._tally.open.get(pid, set()) for pid in self.pids_of(worker)))

    def mourn(self, worker: Worker) -> Orphans:
        """Note that a worker was killed, and what it left behind."""
        at = worker.ended_at or time.monotonic()
        self.read()
        left = self.running_in(worker)
        orphans = Orphans(Killed(worker.number, worker.pid, at, self.pids_of(worker)), len(left), left)
        self.killed.append(orphans.killed)
        if left:
            self._orphans.append(orphans)
        return orphans

    def lanes(self) -> tuple[Lane, ...]:
        """How each subscription stands: done and rate by the workers' records, the rest by the bus."""
        now = time.monotonic()
        return tuple(self._lane(name, now) for name in MEANT_FOR)

    def _lane(self, name: str, now: float) -> Lane:
        stats = self._stats.get(name)
        done, rate = self._tally.done[name], self._tally.rate(name, now)
        if stats is None:
            return Lane(name=name, done=done, rate=rate)
        return Lane(
            name=name,
            done=done,
            rate=rate,
            waiting=stats.backlog + stats.scheduled + stats.parked_events,
            running=stats.in_flight,
            retrying=stats.retrying,
            dead=stats.dead,
            paused=stats.paused,
        )

    def workers(self) -> tuple[WorkerSight, ...]:
        """How each worker process stands."""
        return tuple(
            WorkerSight(
                number=worker.number,
                pid=worker.pid,
                state=worker.state,
                done=sum(self._tally.by_pid[pid] for pid in self.pids_of(worker)),
            )
            for worker in self._crew.workers
        )
