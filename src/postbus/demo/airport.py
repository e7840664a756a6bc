"""The program that is shown: what an airport does about a storm, as one handler and five subscribers.

Everything else in this package tells the story, breaks things, watches, and counts.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from pathlib import Path

from postbus import Bus, Context, DeliveryContext, RawEvent, Reject, Retry, Router

from .board import open_board, update_board
from .events import FlightArrived, FlightCancelled, FlightDelayed, FlightDeparted, FlightEvent
from .place import VARIABLE, Place
from .records import Recorder
from .services import Refused, Request, ask

__all__ = ["AT_ONCE", "DESKS", "MEANT_FOR", "airport", "bus_at"]

airport = Router()

# Four tries within about three seconds: short enough to be watched, and to be spent before the outage is over.
SOON = Retry(attempts=4, delay=0.4, multiplier=2, max_delay=2, jitter=0.25)

# Which events each subscription is for: said once more beside the code, so that the ledger need not ask the bus.
MEANT_FOR = {
    "passengers": frozenset({"flights.flight.delayed", "flights.flight.cancelled"}),
    "rebooking": frozenset({"flights.flight.cancelled"}),
    "refunds": frozenset({"flights.flight.cancelled"}),
    "crews": frozenset({"flights.flight.departed", "flights.flight.arrived"}),
    "logbook": frozenset(
        f"flights.flight.{what}" for what in ("scheduled", "delayed", "departed", "arrived", "cancelled")
    ),
}

# What one worker can run at once, all subscriptions together: no more can run twice because it died.
AT_ONCE = 20 + 8 + 8 + 20 + 4

# Which outside service each subscription asks; the logbook asks none.
DESKS = {"passengers": "messages", "rebooking": "rebooking", "refunds": "refunds", "crews": "payroll"}


def bus_at(place: Place) -> Bus:
    """The bus of one run.  Its lease is far shorter than the default of 30 s, so that a take-over can be watched."""
    bus = Bus(place.url, namespace=place.namespace, lease=place.lease)
    bus.include(airport)
    return bus


@airport.on
def keep_the_board(event: FlightEvent, context: Context) -> None:
    """In-process: runs as part of `publish`, in its transaction where there is one."""
    connection = _own_board() if context.tx is None else context.tx_as(sqlite3.Connection)
    update_board(connection, event)


@airport.subscriber(FlightDelayed, FlightCancelled, name="passengers", retry=SOON, concurrency=20)
async def tell_passengers(event: FlightDelayed | FlightCancelled, context: DeliveryContext) -> None:
    """Send a message to everybody on the flight."""
    with _records().on_record(context):
        await _ask(event, context)


@airport.subscriber(FlightCancelled, name="rebooking", retry=SOON, concurrency=8)
async def rebook(event: FlightCancelled, context: DeliveryContext) -> None:
    """Find other seats.  The rebooking service will not stand the storm."""
    with _records().on_record(context):
        await _ask(event, context)


@airport.subscriber(FlightCancelled, name="refunds", retry=SOON, concurrency=8)
async def refund(event: FlightCancelled, context: DeliveryContext) -> None:
    """Pay back.  What is refused will be refused again, so it is not retried: it waits as a dead letter."""
    with _records().on_record(context):
        try:
            await _ask(event, context)
        except Refused as error:
            raise Reject(str(error)) from error


@airport.subscriber(FlightDeparted, FlightArrived, name="crews", ordered=True, retry=SOON, concurrency=20)
async def pay_crews(event: FlightDeparted | FlightArrived, context: DeliveryContext) -> None:
    """Count hours in the air, in order for each aircraft.  A diverted flight has none on record: a person must look."""
    with _records().on_record(context):
        if isinstance(event, FlightArrived) and event.minutes_in_air is None:
            raise Reject(f"{event.leg.flight} was diverted: nobody recorded its time in the air")
        await _ask(event, context)


@airport.subscriber("flights.flight.*", name="logbook", concurrency=4)
def write_logbook(event: RawEvent, context: DeliveryContext) -> None:
    """Take down everything, without knowing any event's class; `def`, so it runs in a thread."""
    with _records().on_record(context):
        line = f"{context.envelope.time.isoformat()} {event.name} {event.payload}\n"
        with (_place().folder / f"logbook-{os.getpid()}.txt").open("a") as logbook:
            logbook.write(line)


async def _ask(event: FlightEvent, context: DeliveryContext) -> None:
    request = Request(DESKS[context.subscription], context.idempotency_key, event.leg.flight, event.leg.tail)
    await ask(_place().port, request)


def _place() -> Place:
    return _place_in(os.environ.get(VARIABLE))


@functools.cache
def _place_in(folder: str | None) -> Place:
    return Place.load(folder)


def _records() -> Recorder:
    return _recorder_in(_place().records)


@functools.cache
def _recorder_in(folder: Path) -> Recorder:
    return Recorder(folder)


def _own_board() -> sqlite3.Connection:
    return _board_in(_place().board)


@functools.cache
def _board_in(path: Path) -> sqlite3.Connection:
    return open_board(path)
