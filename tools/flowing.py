"""The bus that `tools.dashboard_load` looks at: `python -m tools.flowing` publishes and handles 10,000 events a second.

Where it is stands in the environment, as URL#namespace, so that `postbus dashboard tools.flowing:bus` finds it, too.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

from postbus import Bus, event

__all__ = ["PLACE", "Broke", "Happened", "bus", "bus_of"]

PLACE = "DASHBOARD_LOAD"
BATCH, RATE = 100, 10_000
# Seconds between two lines that say how many were handled, and how far behind its time it may be and catch up.
_SAID, _BEHIND = 0.1, 0.05


@event("load.thing.happened", key="number")
@dataclass(frozen=True)
class Happened:
    """What flows."""

    number: int


@event("load.thing.broke")
@dataclass(frozen=True)
class Broke:
    """What is dead."""

    number: int


def bus_of(place: str) -> Bus:
    """The bus that all processes share."""
    url, _, namespace = place.rpartition("#")
    bus = Bus(url, namespace=namespace)

    @bus.subscriber(Happened, name="steady", concurrency=200)
    async def handle(event: Happened) -> None:
        """Done."""

    @bus.subscriber(Broke, name="broken")
    async def never(event: Broke) -> None:
        """Its worker does not run here."""

    return bus


bus = bus_of(os.environ[PLACE]) if PLACE in os.environ else None


async def flow(bus: Bus) -> None:
    """Publish and handle; say again and again how many were handled, and when."""
    async with bus, bus.worker(only=["steady"]):
        number = 0
        due = said = time.monotonic()
        while True:
            await bus.publish_many([Happened(number + n) for n in range(BATCH)])
            number += BATCH
            due = max(due + BATCH / RATE, time.monotonic() - _BEHIND)
            # A time and a counter are waited for, which set no event.
            while bus.counters.acked < number - 20 * BATCH or time.monotonic() < due:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            if time.monotonic() - said >= _SAID:
                said = time.monotonic()
                print(bus.counters.acked, said, flush=True)


if __name__ == "__main__":
    asyncio.run(flow(bus_of(os.environ[PLACE])))
