"""Publishes numbered events and writes down what became of each: `publisher.py FIRST COUNT BATCH [DO]`."""

from __future__ import annotations

import asyncio
import os
import sys
from uuid import UUID, uuid4

from app import bus, ledger
from rig_events import Happened

from postbus import PublishFailed, PublishUnknown

# So that events flow for as long as something is done to them.
PAUSE = float(os.environ.get("RIG_PAUSE", "0"))


async def main(first: int, count: int, batch: int, do: str) -> None:
    async with bus:
        for start in range(first, first + count, batch):
            events = [
                (uuid4(), Happened(n, f"{first}-{n % 50}", do)) for n in range(start, min(start + batch, first + count))
            ]
            await asyncio.gather(*(publish(event_id, one) for event_id, one in events))
            await asyncio.sleep(PAUSE)


async def publish(event_id: UUID, one: Happened) -> None:
    ledger.note("INTENT", event_id, key=one.key, number=one.number)
    while True:
        try:
            await bus.publish(one, id=event_id)
        except PublishFailed:
            ledger.note("FAILED", event_id, key=one.key, number=one.number)
            await asyncio.sleep(0.1)  # an outage must not be over before the server is back
            return
        except PublishUnknown:
            ledger.note("UNKNOWN", event_id, key=one.key, number=one.number)
            await asyncio.sleep(0.05)
            continue
        ledger.note("ACK", event_id, key=one.key, number=one.number)
        return


if __name__ == "__main__":
    asyncio.run(
        main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "work")
    )
