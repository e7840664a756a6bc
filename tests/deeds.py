"""A program whose subscribers do what the event says: `postbus worker deeds:bus`, or made by `make`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from postbus import Bus, DeliveryContext, Reject, Retry, event


@event("deeds.deed.asked")
@dataclass(frozen=True)
class Deed:
    number: int
    do: str = "nothing"
    seconds: float = 0.0


@event("deeds.deed.followed")
@dataclass(frozen=True)
class Followed:
    number: int


@event("deeds.blocking.asked")
@dataclass(frozen=True)
class Blocking:
    number: int
    do: str = "sleep"
    seconds: float = 0.0


@event("deeds.apart.asked")
@dataclass(frozen=True)
class Apart:
    number: int
    do: str = "nothing"
    seconds: float = 0.0


class Unusual(BaseException):
    """What nobody expects."""


def make() -> Bus:
    """The bus, as the environment says."""
    lease = float(os.environ.get("DEEDS_LEASE", "0.5"))
    bus = Bus(os.environ["DEEDS_URL"], lease=lease, grace=float(os.environ.get("DEEDS_GRACE", "5")))
    ledger = os.open(os.environ["DEEDS_LEDGER"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    retry = Retry(attempts=3, delay=0.02, multiplier=1, jitter=0)
    timeout = float(os.environ.get("DEEDS_TIMEOUT", "60"))

    def note(what: str, number: int, attempt: int) -> None:
        os.write(ledger, f"{what} {number} {attempt} {os.getpid()}\n".encode())

    @bus.subscriber(
        Deed, name="work", retry=retry, timeout=timeout, concurrency=int(os.environ.get("DEEDS_AT_ONCE", "10"))
    )
    async def work(deed: Deed, context: DeliveryContext) -> None:
        note("START", deed.number, context.attempt)
        try:
            await act(deed, context)
        except asyncio.CancelledError:
            note("CANCELLED", deed.number, context.attempt)
            raise
        note("END", deed.number, context.attempt)

    @bus.subscriber(Followed, name="follows", retry=retry)
    async def follows(followed: Followed, context: DeliveryContext) -> None:
        note("FOLLOWED", followed.number, context.attempt)

    @bus.subscriber(Blocking, name="blocks", retry=retry, timeout=timeout)
    def blocks(blocking: Blocking, context: DeliveryContext) -> None:
        note("START", blocking.number, context.attempt)
        time.sleep(blocking.seconds)
        note("END", blocking.number, context.attempt)

    @bus.subscriber(Apart, name="apart", retry=retry, isolation="process", timeout=timeout, concurrency=2)
    async def apart(asked: Apart, context: DeliveryContext) -> None:
        note("START", asked.number, context.attempt)
        await act(Deed(asked.number, asked.do, asked.seconds), context)
        note("END", asked.number, context.attempt)

    return bus


async def act(deed: Deed, context: DeliveryContext) -> None:
    """Do what the event says: by itself where that needs no waiting, else in `waits`."""
    if deed.do in DEEDS:
        DEEDS[deed.do](deed)
    elif deed.do == "publish":
        await context.publish(Followed(deed.number))
    else:
        await waits(deed)


async def waits(deed: Deed) -> None:
    until = time.monotonic() + deed.seconds
    while time.monotonic() < until:
        try:
            await asyncio.sleep(until - time.monotonic())
        except asyncio.CancelledError:
            if deed.do != "deaf":
                raise


def devour(_deed: Deed) -> None:
    room = []
    while True:
        room.append(bytes(64 * 1024 * 1024))


def throw(error: BaseException) -> Callable[[Deed], None]:
    def act(_deed: Deed) -> None:
        raise error

    return act


DEEDS: dict[str, Callable[[Deed], None]] = {
    "nothing": lambda _: None,
    "hold": lambda deed: time.sleep(deed.seconds),  # the event loop does not turn
    "die": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "leave": lambda _: os._exit(7),
    "devour": devour,
    "fail": throw(ValueError("no \x1b[31mred\x1b[0m, and postgresql://me:canary@db/x")),
    "reject": throw(Reject("not this one")),
    "exit": throw(SystemExit(3)),
    "interrupt": throw(KeyboardInterrupt()),
    "end generator": throw(GeneratorExit()),
    "unusual": throw(Unusual("as it is")),
    "group": throw(ExceptionGroup("several", [ValueError("one"), KeyError("two")])),
    "time out": throw(TimeoutError("its own")),
}

if "DEEDS_LIMIT" in os.environ:  # as a container's memory limit would
    import resource

    limit = int(os.environ["DEEDS_LIMIT"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

if "DEEDS_DIES_AT_START" in os.environ:
    os.kill(os.getpid(), signal.SIGKILL)

if "DEEDS_URL" in os.environ:
    bus = make()
