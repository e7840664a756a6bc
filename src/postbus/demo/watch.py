"""Keeps an eye on a run: reads the workers' records as they grow, asks the bus for its figures, follows who died."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from postbus import Bus, Stats
from postbus.transport import Inspectable

from .airport import MEANT_FOR
from .crew import alive
from .ledger import Killed
from .records import Entry, Reader
from .roster import Member, Roster
from .sight import Delivery, Lane, Tally

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
        roster: the workers, as they say themselves that they live.
        progressed_at: when a worker last wrote something.
    """

    def __init__(self, bus: Bus, reader: Reader, is_alive: Callable[[int], bool] = alive) -> None:
        self.entries: list[Entry] = []
        self.killed: list[Killed] = []
        self.roster = Roster(is_alive)
        self.progressed_at = time.monotonic()
        self._bus = bus
        self._reader = reader
        self._tally = Tally()
        self._orphans: list[Orphans] = []
        self._stats = Stats()
        self._asked_at = float("-inf")

    async def look(self) -> None:
        """Take in what is new."""
        self.read()
        if time.monotonic() - self._asked_at > FIGURES:
            await self.ask()

    async def ask(self) -> None:
        """Ask the bus how its subscriptions stand, and which workers live."""
        self._stats = await self._bus.stats()
        store = self._bus.transport
        if isinstance(store, Inspectable):
            self.roster.update(await store.workers())
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
            if entry.what == "done":
                for orphans in self._orphans:
                    orphans.left.discard((entry.subscription, entry.event))

    def busiest(self) -> Member | None:
        """The living worker with most deliveries started and not ended."""
        return max(self.roster.living(), key=lambda member: len(self._running_in(member.pid)), default=None)

    def _running_in(self, pid: int) -> set[Delivery]:
        return self._tally.open.get(pid, set())

    def mourn(self, member: Member) -> Orphans:
        """Note that a worker was killed, and what it left behind."""
        self.read()
        left = set(self._running_in(member.pid))
        orphans = Orphans(Killed(member.number, member.pid, time.monotonic()), len(left), left)
        self.killed.append(orphans.killed)
        if left:
            self._orphans.append(orphans)
        return orphans

    def taken_over(self) -> list[Orphans]:
        """Those whose last delivery was done by others since the last call."""
        done = [orphans for orphans in self._orphans if not orphans.left]
        self._orphans = [orphans for orphans in self._orphans if orphans.left]
        return done

    def lanes(self) -> tuple[Lane, ...]:
        """How each subscription stands: done and rate by the workers' records, the rest by the bus."""
        now = time.monotonic()
        return tuple(self._lane(name, now) for name in MEANT_FOR)

    def _lane(self, name: str, now: float) -> Lane:
        stats = self._stats.get(name)
        done, rate = len(self._tally.done.get(name, ())), self._tally.rate(name, now)
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
