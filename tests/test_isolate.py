"""Child processes that run one delivery each: what they answer, what kills them, and when they end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from deeds import Apart, Deed, Followed, make
from postbus import Bus, Failure, Retry, event
from postbus.delivery import Ack, Bury, DeadLetter, Delivery, Outcome, Requeue
from postbus.dispatch import Done
from postbus.isolate import Isolation
from postbus.logs import Logs
from postbus.program import Program
from postbus.slots import ProcessDied
from running import DEEDS, Shop, alive

PROGRAM = Program("deeds:make", str(DEEDS), factory=True)
QUIET = Logs(level="critical")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path)
    for name, value in shop.env.items():
        monkeypatch.setenv(name, value)
    return shop


@pytest.fixture
async def isolation(shop: Shop) -> AsyncIterator[Isolation]:
    isolation = Isolation(PROGRAM, QUIET)
    yield isolation
    await isolation.close()


def delivery_of(event: object, subscription: str = "work", *, suspect: bool = True) -> Delivery:
    envelope = make().catalog.seal(event, micros=1)
    return Delivery(envelope, subscription, 1, 1, "somebody", (1, 1), suspect)


async def until(so: Callable[[], object], patience: float = 30.0) -> None:
    end = time.monotonic() + patience
    while not so():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


async def first_letter(bus: Bus) -> DeadLetter:
    async with asyncio.timeout(30):
        while not (found := await bus.dead.list("things")):  # noqa: ASYNC110 - a burial sets no event
            await asyncio.sleep(0.01)
    return found[0]


# -- what it answers


async def test_a_delivery_runs_in_another_process(shop: Shop, isolation: Isolation) -> None:
    assert await isolation.run(delivery_of(Deed(1)), 60) == Ack()
    assert [(line.number, line.attempt) for line in shop.lines("END")] == [(1, 1)]
    assert shop.lines("END")[0].pid != os.getpid()


async def test_an_error_is_judged_there_and_told_here(isolation: Isolation) -> None:
    outcome = await isolation.run(delivery_of(Deed(1, "fail")), 60)
    assert isinstance(outcome, Requeue)
    assert outcome.failure is not None
    assert outcome.failure.error == "ValueError"
    assert "in act" in outcome.failure.traceback
    assert "canary" not in str(outcome)


async def test_a_rejection_buries(isolation: Isolation) -> None:
    outcome = await isolation.run(delivery_of(Deed(1, "reject")), 60)
    assert isinstance(outcome, Bury)
    assert outcome.reason == "not this one"


@pytest.mark.parametrize("do", ["exit", "interrupt", "end generator", "unusual", "group", "time out"])
async def test_whatever_a_subscriber_raises_leaves_its_process_alive(shop: Shop, isolation: Isolation, do: str) -> None:
    assert isinstance(await isolation.run(delivery_of(Deed(1, do)), 60), Requeue)
    assert await isolation.run(delivery_of(Deed(2)), 60) == Ack()
    assert len({line.pid for line in shop.lines("START")}) == 1


async def test_what_it_publishes_is_stored(shop: Shop, isolation: Isolation) -> None:
    assert await isolation.run(delivery_of(Deed(7, "publish")), 60) == Ack()
    async with make() as bus:
        assert (await bus.stats())["follows"].backlog == 1


# -- what kills it


@pytest.mark.parametrize(("do", "how"), [("die", "was killed by SIGKILL"), ("leave", "ended with exit code 7")])
async def test_a_process_that_dies_says_how(isolation: Isolation, do: str, how: str) -> None:
    with pytest.raises(ProcessDied, match=how):
        await isolation.run(delivery_of(Deed(1, do)), 60)
    assert await isolation.run(delivery_of(Deed(2)), 60) == Ack()


async def test_cancelling_ends_the_process_before_it_returns(shop: Shop, isolation: Isolation) -> None:
    run = asyncio.create_task(isolation.run(delivery_of(Deed(1, "deaf", 600)), 60))
    await until(lambda: shop.lines("START"))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not psutil.pid_exists(shop.lines("START")[0].pid)


async def test_a_process_that_died_while_idle_is_not_held_against_the_next_delivery(
    shop: Shop, isolation: Isolation
) -> None:
    assert await isolation.run(delivery_of(Deed(1)), 60) == Ack()
    idle = shop.lines("END")[0].pid
    os.kill(idle, signal.SIGKILL)
    await until(lambda: not alive(idle))
    assert await isolation.run(delivery_of(Deed(2)), 60) == Ack()


@pytest.mark.parametrize("suspect", [True, False])
async def test_a_program_that_cannot_start_costs_no_attempt(shop: Shop, suspect: bool) -> None:
    isolation = Isolation(Program("deeds:nothing", str(DEEDS)), QUIET)
    outcome = await isolation.run(delivery_of(Deed(1), suspect=suspect), 60)
    assert isinstance(outcome, Requeue)
    assert (outcome.failure, outcome.suspect) == (None, suspect)


# -- how long it lives


async def test_a_process_is_kept_for_the_next_delivery_and_ended_after_idling(shop: Shop) -> None:
    isolation = Isolation(PROGRAM, QUIET, idle=0.2)
    for number in (1, 2):
        await isolation.run(delivery_of(Deed(number)), 60)
    (pid,) = {line.pid for line in shop.lines("END")}
    await until(lambda: not psutil.pid_exists(pid))
    assert await isolation.run(delivery_of(Deed(3)), 60) == Ack()
    await isolation.close()


async def test_deliveries_run_beside_each_other_in_processes_of_their_own(shop: Shop, isolation: Isolation) -> None:
    slow = asyncio.create_task(isolation.run(delivery_of(Deed(1, "sleep", 600)), 60))
    await until(lambda: shop.lines("START"))
    assert await isolation.run(delivery_of(Deed(2)), 60) == Ack()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    assert len({line.pid for line in shop.lines("START")}) == 2


PARENT = """
import asyncio
from test_isolate import *
asyncio.run(Isolation(PROGRAM, QUIET).run(delivery_of(Deed(1, "hold", 600)), 60))
"""


def test_a_child_ends_with_its_parent_even_while_it_is_blocked(shop: Shop) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=Path(__file__).parent)
    try:
        shop.until(lambda: shop.lines("START"))
    finally:
        parent.kill()
        parent.wait()
    shop.until(lambda: not alive(shop.lines("START")[0].pid))


# -- and the worker that uses it


@event("suspects.thing.done")
@dataclass(frozen=True)
class Thing:
    number: int


class Fake:
    """Child processes that are none: the killer's deliveries die, others are done."""

    def __init__(self, killer: int) -> None:
        self.killer = killer
        self.ran: list[tuple[int, int]] = []

    async def run(self, delivery: Delivery, timeout: float) -> Outcome | Done:
        number = int(delivery.envelope.key or 0)
        self.ran.append((number, delivery.attempt))
        if number == self.killer:
            raise ProcessDied("the process that ran it was killed by SIGKILL")
        return Ack()


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/bus.db"])
async def test_what_a_vanished_worker_held_runs_isolated_and_a_killer_stays_there(tmp_path: Path, url: str) -> None:
    bus = Bus(url.format(tmp_path), lease=0.2)
    here: list[int] = []
    done = asyncio.Event()

    @bus.subscriber(Thing, name="things", retry=Retry(attempts=3, delay=0.01, multiplier=1))
    async def things(thing: Thing) -> None:
        here.append(thing.number)
        done.set()

    fake = Fake(killer=2)
    async with bus:
        for number in range(3):
            await bus.publish(Thing(number), key=str(number))
        held = await bus.transport.claim("things", owner="vanished", limit=3, lease=0.05)
        assert len(held.deliveries) == 3
        async with bus.worker(isolate=fake):
            await bus.publish(Thing(9), key="9")
            await done.wait()
            letter = await first_letter(bus)
    assert sorted(fake.ran) == [(0, 1), (1, 1), (2, 1), (2, 2), (2, 3)]
    assert here == [9]
    assert (letter.reason, letter.attempts, letter.envelope.key) == ("attempts spent", 3, "2")
    assert letter.failure is not None
    assert (letter.failure.error, "SIGKILL" in letter.error) == ("postbus.ProcessDied", True)


class Endless:
    """A child process whose delivery never ends by itself."""

    def __init__(self) -> None:
        self.began = asyncio.Event()

    async def run(self, delivery: Delivery, timeout: float) -> Outcome | Done:
        self.began.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/bus.db"])
@pytest.mark.parametrize("isolation", ["thread", "process"])
async def test_shutdown_hands_an_isolated_delivery_back_with_its_attempt(
    tmp_path: Path, url: str, isolation: Any
) -> None:
    bus = Bus(url.format(tmp_path), lease=0.2, grace=0)

    @bus.subscriber(Thing, name="things", isolation=isolation)
    async def things(thing: Thing) -> None: ...

    endless = Endless()
    async with bus:
        await bus.publish(Thing(1))
        if isolation == "thread":
            await bus.transport.claim("things", owner="vanished", limit=1, lease=0.05)
        async with bus.worker(isolate=endless):
            await endless.began.wait()
        claimed = await bus.transport.claim("things", owner="next", limit=1, lease=5, alone=isolation == "thread")
        assert [delivery.attempt for delivery in claimed.deliveries] == [1]


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/bus.db"])
async def test_an_isolated_delivery_keeps_its_lease_and_its_time_limit(tmp_path: Path, url: str) -> None:
    bus = Bus(url.format(tmp_path), lease=0.1)

    @bus.subscriber(Thing, name="things", isolation="process", timeout=0.5, retry=Retry(attempts=1))
    async def things(thing: Thing) -> None: ...

    async with bus:
        await bus.publish(Thing(1))
        async with bus.worker(isolate=Endless()):
            letter = await first_letter(bus)
    assert isinstance(letter.failure, Failure)
    assert letter.failure.error == "TimeoutError"
    assert bus.counters.lease_lost == 0


async def test_a_subscriber_may_ask_for_a_process_of_its_own(shop: Shop, isolation: Isolation) -> None:
    bus = make()
    async with bus:
        await bus.publish_many([Apart(number) for number in range(4)])
        await bus.publish(Followed(9))
        await bus.drain(isolate=isolation)
    assert sorted(line.number for line in shop.lines("END")) == [0, 1, 2, 3]
    assert os.getpid() not in {line.pid for line in shop.lines("END")}
    assert {line.pid for line in shop.lines("FOLLOWED")} == {os.getpid()}
