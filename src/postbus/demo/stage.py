"""One run from the first flight to the last delivery: follows the storm's clock, and shows what is seen."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from datetime import datetime
from typing import Literal

from .announcer import Announcer
from .board import count_legs, read_board
from .director import Director
from .events import FlightScheduled
from .flights import Hour
from .outside import Outside
from .sight import Mood, News, Sight, Strip, weather_at
from .storm import SCRIPT, Happening, Pace, mends_left
from .watch import Watch

__all__ = ["Stage", "Stuck"]

TICK = 0.04
LOOK = 0.2
# Announcements in one transaction: many enough to keep up, few enough to hold the database's lock for a moment only.
BATCH = 100
# No worker wrote a line for so long, and yet there is work: it will not end by itself.
STUCK = 20.0


class Stuck(Exception):
    """There is work, and nobody does it."""


class Stage:
    """Plays one run.

    Attributes:
        stop: set when it is to end.
        interrupted: whether somebody asked for that.
        news: what was said so far.
    """

    def __init__(
        self,
        *,
        pace: Pace,
        told: tuple[Happening, ...],
        strip: Strip,
        weather: tuple[Hour, ...],
        connection: sqlite3.Connection,
        announcer: Announcer,
        outside: Outside,
        watch: Watch,
        show: Callable[[Sight], None],
        tries: Callable[[], tuple[str, ...]],
    ) -> None:
        self.stop = asyncio.Event()
        self.interrupted = False
        self.news: list[News] = []
        self._pace = pace
        self._told = tuple(happening for happening in told if pace.begins_at <= happening.at <= pace.ends_at)
        self._script = tuple(scene for scene in SCRIPT if scene.at >= pace.begins_at)
        self._strip = strip
        self._weather = weather
        self._connection = connection
        self._announcer = announcer
        self._outside = outside
        self._watch = watch
        self._show = show
        self._tries = tries
        self._clock: datetime = pace.begins_at
        self._next_scene = 0
        self._began = time.monotonic()
        self._looked_at = float("-inf")
        self._phase: Literal["playing", "finishing", "staying"] = "playing"

    @property
    def greeting(self) -> str:
        """What is about to be seen, in one sentence."""
        days = (self._pace.ends_at - self._pace.begins_at).total_seconds() / 86_400
        flights = sum(1 for happening in self._told if isinstance(happening.event, FlightScheduled))
        return f"{days:.1f} days with {flights:,} flights, {self._pace.speed:,.0f} times faster than life"

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was started."""
        return time.monotonic() - self._began

    def interrupt(self) -> None:
        """End the run in order."""
        self.interrupted = True
        self.stop.set()

    def tell(self, text: str, mood: Mood = "plain") -> None:
        """Note a sentence of news, by the storm's clock."""
        self.news.append(News(self._clock, text, mood))

    async def play(self, director: Director, *, stay: bool) -> None:
        """Announce every flight, mend what is broken, wait until everything is done; then stay, if asked to.

        Raises:
            Stuck: when work is left that nobody does.
            CrewFailed: when the workers cannot be kept running.
        """
        await self._announce_all(director)
        if not self.stop.is_set():
            for scene in mends_left(self._script, self._next_scene):
                await director.perform(scene.act, ())
            self._phase = "finishing"
            flights, seats = count_legs(self._connection, "cancelled")
            self.tell(f"the storm is over: {flights:,} flights with {seats:,} seats never left")
            await self._finish(director)
        if stay and not self.stop.is_set():
            self._phase = "staying"
            self.tell("everything is done; this goes on until Ctrl-C", "good")
            while not self.stop.is_set():
                await self._beat(director)

    async def _announce_all(self, director: Director) -> None:
        self._began = time.monotonic()
        place = 0
        while place < len(self._told) and not self.stop.is_set():
            clock = self._pace.clock(time.monotonic() - self._began)
            due = [happening for happening in self._told[place : place + BATCH] if happening.at <= clock]
            if due:
                await self._announcer.announce(due)
                place += len(due)
            # When publishing falls behind, the storm waits for it.
            self._clock = due[-1].at if len(due) == BATCH else clock
            await self._run_scenes(director, self._told[place : place + 10])
            await self._beat(director, pause=0.0 if len(due) == BATCH else TICK)

    async def _run_scenes(self, director: Director, upcoming: tuple[Happening, ...]) -> None:
        while self._next_scene < len(self._script) and self._script[self._next_scene].at <= self._clock:
            await director.perform(self._script[self._next_scene].act, upcoming)
            self._next_scene += 1

    async def _finish(self, director: Director) -> None:
        self._watch.progressed_at = time.monotonic()
        while not self.stop.is_set():
            await self._beat(director, pause=LOOK)
            await self._watch.ask()
            if any(lane.unfinished for lane in self._watch.lanes()):
                if time.monotonic() - self._watch.progressed_at > STUCK:
                    raise Stuck(f"no worker has done anything for {STUCK:g} s, and not everything is done")
            # The services work now, so what they had turned away gets its second chance.
            elif not await director.replay("rebooking") + await director.replay("refunds"):
                return

    async def _beat(self, director: Director, pause: float = TICK) -> None:
        """Look after the crew and show what is seen, now and then."""
        if time.monotonic() - self._looked_at > LOOK:
            await self._watch.look()
            director.follow_the_crew()
            director.remark(self._watch.lanes())
            self._show(self._sight())
            self._looked_at = time.monotonic()
        await asyncio.sleep(pause)

    def _sight(self) -> Sight:
        return Sight(
            clock=self._clock,
            elapsed=self.elapsed,
            share=self._pace.share(self._clock),
            published=self._announcer.count,
            total=len(self._told),
            weather=weather_at(self._weather, self._clock),
            strip=self._strip,
            airports=tuple(read_board(self._connection)),
            lanes=self._watch.lanes(),
            workers=self._watch.roster.members(),
            trouble=dict(self._outside.trouble),
            news=tuple(self.news),
            tries=self._tries(),
            phase=self._phase,
        )
