"""What a viewer sees at one moment, as plain facts.  Collects them; draws nothing, and does nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeAlias
from uuid import UUID

from .board import Airport
from .events import FlightCancelled, FlightDeparted
from .flights import Hour
from .records import Entry
from .roster import Member
from .storm import Happening

__all__ = ["Lane", "Mood", "News", "Sight", "Strip", "Tally", "strip_of", "weather_at"]

Delivery: TypeAlias = tuple[str, UUID]
Mood: TypeAlias = Literal["bad", "good", "plain"]


@dataclass(frozen=True, slots=True)
class News:
    """One sentence about what is happening, by the storm's clock."""

    clock: datetime
    text: str
    mood: Mood = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How one subscription stands."""

    name: str
    done: int = 0
    rate: float = 0.0
    waiting: int = 0
    running: int = 0
    retrying: int = 0
    dead: int = 0
    paused: bool = False

    @property
    def unfinished(self) -> int:
        """Everything that is still to be done, dead letters aside."""
        return self.waiting + self.running + self.retrying


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The four days at a glance: how much left, and how much was cancelled, in equal steps of time."""

    begins_at: datetime
    step: timedelta
    departed: tuple[int, ...]
    cancelled: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One moment of the run."""

    clock: datetime
    elapsed: float
    share: float
    published: int
    total: int
    weather: Hour | None
    strip: Strip
    airports: tuple[Airport, ...]
    lanes: tuple[Lane, ...]
    workers: tuple[Member, ...]
    trouble: dict[str, str]
    news: tuple[News, ...]
    tries: tuple[str, ...]
    phase: Literal["playing", "finishing", "staying"] = "playing"

    @property
    def done(self) -> int:
        """Deliveries done, all subscriptions together."""
        return sum(lane.done for lane in self.lanes)


def strip_of(told: Sequence[Happening], steps: int) -> Strip:
    """Count departures and cancellations in `steps` equal steps."""
    begins_at, ends_at = told[0].at, told[-1].at
    step = (ends_at - begins_at) / steps or timedelta(seconds=1)
    departed, cancelled = [0] * steps, [0] * steps
    for happening in told:
        place = min(int((happening.at - begins_at) / step), steps - 1)
        match happening.event:
            case FlightDeparted():
                departed[place] += 1
            case FlightCancelled():
                cancelled[place] += 1
            case _:
                pass
    return Strip(begins_at=begins_at, step=step, departed=tuple(departed), cancelled=tuple(cancelled))


def weather_at(hours: Iterable[Hour], clock: datetime) -> Hour | None:
    """The weather of the hour that `clock` is in; None where nobody measured it."""
    return next((hour for hour in hours if timedelta() <= clock - hour.starts_at < timedelta(hours=1)), None)


@dataclass(slots=True)
class Tally:
    """Counts of the workers' records, kept as they grow."""

    window: float = 3.0
    done: dict[str, set[UUID]] = field(default_factory=dict)
    open: dict[int, set[Delivery]] = field(default_factory=dict)
    _recent: dict[str, deque[float]] = field(default_factory=dict)

    def add(self, entries: Iterable[Entry]) -> None:
        """Count new entries."""
        for entry in entries:
            running = self.open.setdefault(entry.pid, set())
            delivery = (entry.subscription, entry.event)
            if entry.what == "start":
                running.add(delivery)
                continue
            running.discard(delivery)
            if entry.what == "done":
                self.done.setdefault(entry.subscription, set()).add(entry.event)
                self._recent.setdefault(entry.subscription, deque()).append(entry.at)

    def rate(self, subscription: str, now: float) -> float:
        """Deliveries done in a second, over the last few."""
        recent = self._recent.get(subscription, deque())
        while recent and recent[0] < now - self.window:
            recent.popleft()
        return len(recent) / self.window
