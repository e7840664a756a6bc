"""The record of four days at New York's airports, read from the package.  data/SOURCE.md says where it comes from."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.resources import files

__all__ = ["NEW_YORK", "Flight", "Hour", "flight_of", "read_flights", "read_weather"]

# February: no change to or from summer time in these days, so a fixed offset is the whole truth.
NEW_YORK = timezone(timedelta(hours=-5), "EST")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """One row of the record.

    Attributes:
        departs_at: as scheduled.
        departed_at: None when it was cancelled.
        arrived_at: None when it was cancelled, or landed somewhere else and nobody recorded when.
        minutes_in_air: None when it was cancelled or diverted.
        tail: the aircraft; None when it never was given one.
    """

    carrier: str
    number: str
    tail: str | None
    seats: int | None
    origin: str
    destination: str
    departs_at: datetime
    departed_at: datetime | None
    arrived_at: datetime | None
    minutes_in_air: int | None

    @property
    def cancelled(self) -> bool:
        """Whether it never left."""
        return self.departed_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """The weather of one hour, the worst of what the three airports measured."""

    starts_at: datetime
    fahrenheit: float
    wind_mph: float
    visibility_miles: float


def read_flights() -> tuple[Flight, ...]:
    """Every flight of the extract, by scheduled departure."""
    return tuple(flight_of(row) for row in _rows("flights.csv.gz"))


def flight_of(row: dict[str, str]) -> Flight:
    """Read one row; the boards show local clocks, so an arrival is told by the destination's offset."""
    departs_at = _on_day(int(row["day"]), int(row["sched_dep"]))
    departed_at = departs_at + timedelta(minutes=float(row["dep_delay"])) if row["dep_delay"] else None
    return Flight(
        carrier=row["carrier"],
        number=row["flight"],
        tail=row["tail"] or None,
        seats=int(row["seats"]) if row["seats"] else None,
        origin=row["origin"],
        destination=row["dest"],
        departs_at=departs_at,
        departed_at=departed_at,
        arrived_at=_next_clock(departed_at, row["arr_time"], int(row["dest_utc"])) if departed_at else None,
        minutes_in_air=int(float(row["air_time"])) if row["air_time"] else None,
    )


def read_weather() -> tuple[Hour, ...]:
    """Every hour of the four days."""
    worst: dict[datetime, Hour] = {}
    for row in _rows("weather.csv.gz"):
        hour = Hour(
            starts_at=_on_day(int(row["day"]), int(row["hour"]) * 100),
            fahrenheit=float(row["temp_f"]),
            wind_mph=float(row["gust_mph"] or row["wind_mph"]),
            visibility_miles=float(row["visibility_miles"]),
        )
        known = worst.setdefault(hour.starts_at, hour)
        worst[hour.starts_at] = Hour(
            starts_at=hour.starts_at,
            fahrenheit=min(hour.fahrenheit, known.fahrenheit),
            wind_mph=max(hour.wind_mph, known.wind_mph),
            visibility_miles=min(hour.visibility_miles, known.visibility_miles),
        )
    return tuple(worst[hour] for hour in sorted(worst))


def _rows(name: str) -> list[dict[str, str]]:
    packed = (files("postbus.demo") / "data" / name).read_bytes()
    return list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode())))


def _on_day(day: int, clock: int) -> datetime:
    return datetime(2013, 2, day, tzinfo=NEW_YORK) + _since_midnight(clock)


def _since_midnight(clock: int) -> timedelta:
    return timedelta(hours=clock // 100, minutes=clock % 100)


def _next_clock(after: datetime, clock: str, offset: int) -> datetime | None:
    """The first moment after `after` at which a clock with this offset from UTC shows `clock`, such as '1204'."""
    if not clock:
        return None
    there = after.astimezone(timezone(timedelta(hours=offset)))
    shown = there.replace(hour=0, minute=0) + _since_midnight(int(clock))
    moment = shown if shown > there else shown + timedelta(days=1)
    # A clock of '2400' is the midnight at the end of the day, which `shown` may have put a day too late.
    return (moment - timedelta(days=1) if moment - timedelta(days=1) > there else moment).astimezone(NEW_YORK)
