"""The storm as a play: what is announced when, what goes wrong when, and how fast the clock runs.  Pure.

Four things are assumed, because the record does not hold them: a flight is on the boards three hours ahead, a
cancellation is announced ninety minutes ahead, a delay from fifteen minutes on is announced when the flight should have
left, and everything in `SCRIPT` was made up for the demo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from .events import FlightArrived, FlightCancelled, FlightDelayed, FlightDeparted, FlightEvent, FlightScheduled, Leg
from .flights import NEW_YORK, Flight

__all__ = ["SCRIPT", "Act", "Happening", "Pace", "Scene", "happenings", "mends_left", "window"]

ON_THE_BOARDS = timedelta(hours=3)
CALLED_OFF = timedelta(minutes=90)
LATE = timedelta(minutes=15)

# A run that is too short for all four days begins here, a few hours before the storm does its worst.
EVE = datetime(2013, 2, 8, 10, tzinfo=NEW_YORK)


@dataclass(frozen=True, slots=True)
class Happening:
    """One event and when it was announced."""

    at: datetime
    event: FlightEvent


def happenings(flights: Iterable[Flight]) -> tuple[Happening, ...]:
    """Everything that happened to these flights, in the order it was announced."""
    told = [happening for flight in flights for happening in _life_of(flight)]
    # The sort is stable, so that what happened to one flight within a minute keeps its order.
    return tuple(sorted(told, key=lambda happening: happening.at))


def _life_of(flight: Flight) -> Iterator[Happening]:
    leg = Leg(
        flight=f"{flight.carrier} {flight.number}",
        tail=flight.tail,
        origin=flight.origin,
        destination=flight.destination,
        departs_at=flight.departs_at,
        seats=flight.seats,
    )
    yield Happening(flight.departs_at - ON_THE_BOARDS, FlightScheduled(leg))
    if flight.departed_at is None:
        yield Happening(flight.departs_at - CALLED_OFF, FlightCancelled(leg))
        return
    late = flight.departed_at - flight.departs_at
    if late >= LATE:
        yield Happening(flight.departs_at, FlightDelayed(leg, int(late.total_seconds() // 60)))
    yield Happening(flight.departed_at, FlightDeparted(leg, flight.departed_at))
    if flight.arrived_at is not None:
        yield Happening(flight.arrived_at, FlightArrived(leg, flight.arrived_at, flight.minutes_in_air))


Act: TypeAlias = Literal[
    "withdraw",
    "rebooking down",
    "kill worker",
    "rebooking up",
    "replay rebooking",
    "fix refunds",
    "deploy",
    "pause crews",
    "resume crews",
]


@dataclass(frozen=True, slots=True)
class Scene:
    """Something that goes wrong, or is mended.

    Attributes:
        mends: the act whose damage it undoes: a run in which that was done does not end before this one is, even if
            the clock never gets here.  'fix refunds' mends what is broken from the beginning, and so names itself.
    """

    at: datetime
    act: Act
    mends: Act | None = None


def _moment(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2013, 2, day, hour, minute, tzinfo=NEW_YORK)


SCRIPT: tuple[Scene, ...] = (
    Scene(_moment(7, 12), "withdraw"),
    Scene(_moment(8, 12), "rebooking down"),
    Scene(_moment(8, 16, 30), "kill worker"),
    Scene(_moment(9, 2), "rebooking up", mends="rebooking down"),
    Scene(_moment(9, 4), "replay rebooking", mends="rebooking down"),
    Scene(_moment(9, 13), "fix refunds", mends="fix refunds"),
    Scene(_moment(9, 21), "deploy"),
    Scene(_moment(10, 9), "pause crews"),
    Scene(_moment(10, 13), "resume crews", mends="pause crews"),
)


def mends_left(script: Sequence[Scene], done: int) -> tuple[Scene, ...]:
    """What must still be mended when a run ends after `done` scenes."""
    broken = {"fix refunds", *(scene.act for scene in script[:done])}
    return tuple(scene for scene in script[done:] if scene.mends in broken)


@dataclass(frozen=True, slots=True)
class Pace:
    """How the storm's clock follows ours.

    Attributes:
        begins_at: what the storm's clock shows when the run begins.
        ends_at: what it shows at the end.
        speed: seconds of the storm in one of ours.
    """

    begins_at: datetime
    ends_at: datetime
    speed: float

    def clock(self, elapsed: float) -> datetime:
        """What the storm's clock shows after `elapsed` of our seconds."""
        return min(self.begins_at + timedelta(seconds=elapsed * self.speed), self.ends_at)

    def share(self, clock: datetime) -> float:
        """How much of the run lies behind, from 0 to 1."""
        whole = (self.ends_at - self.begins_at).total_seconds()
        return min(max((clock - self.begins_at).total_seconds() / whole, 0.0), 1.0) if whole else 1.0


def window(told: Sequence[Happening], *, seconds: float, speed: float | None) -> Pace:
    """All four days in `seconds`; or as much of the storm as `seconds` hold at `speed`."""
    first, last = told[0].at, told[-1].at
    whole = (last - first).total_seconds()
    if speed is None or speed * seconds >= whole:
        return Pace(first, last, speed or whole / seconds)
    length = timedelta(seconds=speed * seconds)
    begins_at = max(first, min(EVE, last - length))
    return Pace(begins_at, begins_at + length, speed)
