"""The departure board, and the list of what was accepted: two tables that change in the transaction of the publish."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from postbus import Envelope

from .events import FlightArrived, FlightCancelled, FlightDelayed, FlightDeparted, FlightEvent, FlightScheduled

__all__ = [
    "Accepted",
    "Airport",
    "accepted_events",
    "count_legs",
    "create_tables",
    "drop_tables",
    "note_accepted",
    "open_board",
    "read_board",
    "update_board",
]

_TABLES = """
DROP TABLE IF EXISTS demo_board;
DROP TABLE IF EXISTS demo_accepted;
CREATE TABLE demo_board (leg TEXT PRIMARY KEY, airport TEXT, status TEXT, seats INTEGER) WITHOUT ROWID;
CREATE TABLE demo_accepted (place INTEGER PRIMARY KEY, id TEXT, name TEXT, aircraft TEXT, flight TEXT);
"""


@dataclass(frozen=True, slots=True)
class Accepted:
    """One event that `publish` returned for, in the order of publishing."""

    id: UUID
    name: str
    aircraft: str | None
    flight: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Airport:
    """One airport's line of the board."""

    code: str
    waiting: int = 0
    delayed: int = 0
    departed: int = 0
    arrived: int = 0
    cancelled: int = 0


def open_board(path: Path) -> sqlite3.Connection:
    """Open the board's database, for transactions that the caller begins."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables, empty: a run that was kept may have left its own."""
    connection.executescript(_TABLES)


def drop_tables(connection: sqlite3.Connection) -> None:
    """Remove the tables."""
    connection.executescript("DROP TABLE demo_board; DROP TABLE demo_accepted")


def update_board(connection: sqlite3.Connection, event: FlightEvent) -> None:
    """Put what happened on the board."""
    leg = event.leg
    connection.execute(
        "INSERT INTO demo_board VALUES (?, ?, ?, ?) ON CONFLICT (leg) DO UPDATE SET status = excluded.status",
        (leg.id, leg.origin, _status(event), leg.seats),
    )


def _status(event: FlightEvent) -> str:
    match event:
        case FlightScheduled():
            return "waiting"
        case FlightDelayed():
            return "delayed"
        case FlightDeparted():
            return "departed"
        case FlightArrived():
            return "arrived"
        case FlightCancelled():
            return "cancelled"


def note_accepted(connection: sqlite3.Connection, envelope: Envelope, flight: str) -> None:
    """Note that an event was accepted."""
    connection.execute(
        "INSERT INTO demo_accepted (id, name, aircraft, flight) VALUES (?, ?, ?, ?)",
        (str(envelope.id), envelope.name, envelope.key, flight),
    )


def accepted_events(connection: sqlite3.Connection) -> list[Accepted]:
    """Everything that was accepted, in order."""
    rows = connection.execute("SELECT id, name, aircraft, flight FROM demo_accepted ORDER BY place")
    return [Accepted(UUID(id_text), name, aircraft, flight) for id_text, name, aircraft, flight in rows]


def read_board(connection: sqlite3.Connection) -> list[Airport]:
    """The board as people read it, a line for each airport."""
    counts: dict[str, dict[str, int]] = {"EWR": {}, "JFK": {}, "LGA": {}}
    for code, status, number in connection.execute("SELECT airport, status, count(*) FROM demo_board GROUP BY 1, 2"):
        counts.setdefault(code, {})[status] = number
    return [Airport(code=code, **numbers) for code, numbers in sorted(counts.items())]


def count_legs(connection: sqlite3.Connection, status: str) -> tuple[int, int]:
    """How many flights have this status, and how many seats those have that are known."""
    row = connection.execute("SELECT count(*), sum(seats) FROM demo_board WHERE status = ?", (status,)).fetchone()
    return row[0], row[1] or 0
