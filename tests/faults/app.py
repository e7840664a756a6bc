"""The program that the fault tests torment: what its subscribers do is said by the event itself.

Run by `postbus worker app:bus` with RIG_URL and RIG_LEDGER set.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time

from releases import become
from rig_events import Blocked, Happened

from postbus import Bus, DeliveryContext, Reject, Retry
from postbus.testing.ledger import Ledger

if "RIG_RELEASE" in os.environ:
    become(os.environ["RIG_RELEASE"])
LEASE = float(os.environ.get("RIG_LEASE", "1"))
bus = Bus(os.environ["RIG_URL"], lease=LEASE, grace=float(os.environ.get("RIG_GRACE", "5")))
ledger = Ledger(os.environ["RIG_LEDGER"])
RETRY = Retry(attempts=3, delay=0.05, multiplier=1)
CONCURRENCY = int(os.environ.get("RIG_CONCURRENCY", "10"))


def note(kind: str, event: Happened | Blocked, context: DeliveryContext) -> None:
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


def block(event: Blocked, context: DeliveryContext) -> None:
    note("START", event, context)
    until = time.monotonic() + event.seconds
    match event.do:
        case "sleep":
            time.sleep(event.seconds)
        case "spin":
            while time.monotonic() < until:
                pass
        case "hold":  # C code that never lets go of the interpreter, longer and longer until the time is up
            length = 18
            while context.attempt == 1 and time.monotonic() < until:
                re.match(r"(a+)+$", "a" * length + "b")
                length += 1
        case "nothing":
            pass
        case other:
            raise ValueError(f"what is {other!r}?")
    note("END", event, context)


if os.environ.get("RIG_BLOCK") == "process":
    bus.add_subscriber(block, Blocked, name="blocks", timeout=60, isolation="process", concurrency=2)
elif os.environ.get("RIG_BLOCK"):
    bus.add_subscriber(block, Blocked, name="blocks", timeout=60, concurrency=CONCURRENCY)
