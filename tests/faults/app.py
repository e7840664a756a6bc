"""The program that the fault tests torment: what its subscribers do is said by the event itself.

Run by `postbus worker app:bus` with RIG_URL and RIG_LEDGER set.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

from rig_events import Happened

from postbus import Bus, DeliveryContext, Reject, Retry
from postbus.testing.ledger import Ledger

LEASE = float(os.environ.get("RIG_LEASE", "1"))
bus = Bus(os.environ["RIG_URL"], lease=LEASE, grace=float(os.environ.get("RIG_GRACE", "5")))
ledger = Ledger(os.environ["RIG_LEDGER"])
RETRY = Retry(attempts=3, delay=0.05, multiplier=1)
CONCURRENCY = int(os.environ.get("RIG_CONCURRENCY", "10"))


def note(kind: str, event: Happened, context: DeliveryContext) -> None:
    ledger.note(
        kind,  # type: ignore[arg-type]
        context.id,
        subscription=context.subscription,
        attempt=context.attempt,
        fence=context.fence,
        key=event.key,
        number=event.number,
    )


@bus.subscriber(Happened, name="plain", retry=RETRY, concurrency=CONCURRENCY, timeout=30)
async def plain(event: Happened, context: DeliveryContext) -> None:
    note("START", event, context)
    try:
        await act(event, context)
    except BaseException:
        note("ERROR", event, context)
        raise
    note("END", event, context)


@bus.subscriber(Happened, name="ordered", retry=RETRY, concurrency=CONCURRENCY, ordered=True, timeout=30)
async def ordered(event: Happened, context: DeliveryContext) -> None:
    note("START", event, context)
    if event.seconds and event.do == "work":
        await asyncio.sleep(event.seconds)
    note("END", event, context)


async def act(event: Happened, context: DeliveryContext) -> None:
    match event.do:
        case "work":
            if event.seconds:
                await asyncio.sleep(event.seconds)
        case "fail once":
            if context.attempt == 1:
                raise ConnectionError("once more")
        case "reject":
            raise Reject("not this one")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "block":
            time.sleep(event.seconds)  # noqa: ASYNC251 - it blocks the loop on purpose
        case other:
            raise ValueError(f"what is {other!r}?")
