"""What happens to a flight, as five events that share one log and are kept in order by aircraft."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from postbus import event

from .flights import NEW_YORK

__all__ = [
    "FlightArrived",
    "FlightCancelled",
    "FlightDelayed",
    "FlightDeparted",
    "FlightEvent",
    "FlightScheduled",
    "Leg",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One flight on one day.

    Attributes:
        flight: carrier and number, such as 'UA 1545'.
        tail: the aircraft's registration; None when it never was given one.
        origin, destination: airports by their three letters.
        departs_at: as scheduled; aware.
        seats: of the aircraft, where known.
    """

    flight: str
    tail: str | None
    origin: str
    destination: str
    departs_at: datetime
    seats: int | None

    @property
    def id(self) -> str:
        """Tells it from every other leg."""
        return f"{self.departs_at.astimezone(NEW_YORK):%d}/{self.origin}/{self.flight.replace(' ', '')}"


def _tail(event: FlightEvent) -> str | None:
    """The key: what happens to one aircraft is kept in order, and a flight without an aircraft has no order."""
    return event.leg.tail


@event("flights.flight.scheduled", key=_tail)
@dataclass(frozen=True, slots=True)
class FlightScheduled:
    """It is on the boards."""

    leg: Leg


@event("flights.flight.delayed", key=_tail)
@dataclass(frozen=True, slots=True)
class FlightDelayed:
    """Its time has come, and it will not leave for another while."""

    leg: Leg
    minutes: int


@event("flights.flight.departed", key=_tail)
@dataclass(frozen=True, slots=True)
class FlightDeparted:
    """It is in the air, or on its way there."""

    leg: Leg
    departed_at: datetime


@event("flights.flight.arrived", key=_tail)
@dataclass(frozen=True, slots=True)
class FlightArrived:
    """It has landed; a flight that was diverted has no time in the air."""

    leg: Leg
    arrived_at: datetime
    minutes_in_air: int | None


@event("flights.flight.cancelled", key=_tail)
@dataclass(frozen=True, slots=True)
class FlightCancelled:
    """It will not leave."""

    leg: Leg


FlightEvent: TypeAlias = FlightScheduled | FlightDelayed | FlightDeparted | FlightArrived | FlightCancelled
