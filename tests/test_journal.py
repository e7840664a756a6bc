"""The journal: what happened is there for others to see, in sums and one by one, and nobody waits for it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from postbus import Bus, ConfigError, DeliveryContext, RawEvent, Reject, Retry, Snooze, TransportError
from postbus.history import Spread
from postbus.journal import acting_as
from postbus.recording import Record
from postbus.tally import EDGES, Histogram

Make = Callable[..., Bus]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    url = f"sqlite:///{tmp_path}/bus.db" if request.param == "sqlite" else "memory://"

    def bus(**options: Any) -> Bus:
        return Bus(url, **options)

    return bus


def shop(bus: Bus) -> Bus:
    @bus.subscriber("orders.>", name="receipts", retry=Retry(attempts=2, delay=0.01, jitter=0))
    async def receipts(event: RawEvent, context: DeliveryContext) -> None:
        match event.payload:
            case "fails once" if context.attempt == 1:
                raise OSError("postgresql://me:canary@db is away")
            case "fails":
                raise OSError("away")
            case "bad":
                raise Reject("never")
            case "later":
                raise Snooze(600)
            case "slow":
                await asyncio.sleep(0.03)

    return bus


async def run(bus: Bus, *payloads: str) -> None:
    async with bus.worker():
        for payload in payloads:
            await bus.publish(RawEvent("orders.order.placed", payload), key=payload)
        await bus.drain()


async def test_figures_say_what_happened_when(make: Make) -> None:
    bus = shop(make())
    async with bus:
        await run(bus, "ok", "ok", "slow", "fails once", "fails", "bad", "later")
        history = await bus.journal.series(600)
    whole = history.total.sum
    assert (whole.published, whole.handled, whole.failed, whole.retried, whole.snoozed) == (7, 4, 4, 2, 1)
    assert whole.buried == 2
    assert history.step == 10
    assert len(history.total.points) == 60
    assert sum(point.handled for point in history.total.points) == 4
    assert history.total.points[-1].at <= datetime.now(UTC) < history.total.points[-1].at + timedelta(seconds=20)
    receipts = history.subscriptions["receipts"]
    assert receipts.sum.run.count == 9
    assert receipts.sum.delay.count == 7
    assert (receipts.sum.run.quantile(1) or 0) >= 0.03
    assert {name: series.sum.published for name, series in history.names.items()} == {"orders.order.placed": 7}


@pytest.mark.parametrize(
    ("span", "step", "points"),
    [(60, 10, 6), (1200, 10, 120), (1201, 60, 21), (timedelta(hours=6), 60, 360), (timedelta(days=7), 600, 1008)],
)
async def test_longer_spans_come_in_wider_windows(make: Make, span: Any, step: float, points: int) -> None:
    bus = shop(make())
    async with bus:
        await run(bus, "ok")
        history = await bus.journal.series(span)
    assert (history.step, len(history.total.points), history.total.sum.handled) == (step, points, 1)


@pytest.mark.parametrize("span", [0, timedelta(days=8)])
async def test_a_span_beyond_what_is_kept_is_refused(make: Make, span: Any) -> None:
    async with make() as bus:
        with pytest.raises(ConfigError, match="span="):
            await bus.journal.series(span)


async def test_attempts_are_remembered_one_by_one(make: Make) -> None:
    bus = shop(make())
    async with bus:
        await run(bus, "fails once", "bad", "later", "slow")
        attempts = await bus.journal.attempts()
        told = {(a.attempt, a.outcome): a for a in attempts}
        assert set(told) >= {(1, "retried"), (2, "handled"), (1, "buried"), (1, "snoozed"), (1, "handled")}
        assert [a.cursor for a in attempts] == sorted((a.cursor for a in attempts), reverse=True)
        failed = told[1, "retried"]
        assert failed.failure is not None
        assert (failed.failure.error, failed.subscription, failed.event_name) == (
            "OSError",
            "receipts",
            "orders.order.placed",
        )
        assert "canary" not in failed.failure.message + failed.failure.traceback
        assert "receipts" in failed.failure.traceback
        assert failed.due_at is not None
        assert told[1, "buried"].reason == "never"
        assert told[1, "handled"].took >= 0.03
        assert told[1, "handled"].due_at is None
        one = await bus.journal.attempts(failed.event_id)
        assert [(a.attempt, a.outcome) for a in one] == [(2, "handled"), (1, "retried")]
        assert {a.outcome for a in await bus.journal.attempts(failed=True)} == {"retried", "buried"}
        assert await bus.journal.attempts(subscription="nobody") == []
        assert await bus.journal.attempts(since=datetime.now(UTC) + timedelta(hours=1)) == []
        pages = [await bus.journal.attempts(limit=1)]
        while page := await bus.journal.attempts(limit=1, after=pages[-1][0].cursor):
            pages.append(page)
    assert [a for page in pages for a in page] == list(attempts)


async def test_what_people_do_is_on_record(make: Make) -> None:
    bus = shop(make())
    async with bus:
        await run(bus, "bad")
        with acting_as("alice"):
            await bus.subscriptions.pause("receipts")
            await bus.dead.replay("receipts", key="bad")
        await bus.subscriptions.resume("receipts")
        await bus.journal.note("login", "dashboard", detail="password=canary", result="refused")
        actions = await bus.journal.actions()
        assert [(a.what, a.target) for a in actions] == [
            ("login", "dashboard"),
            ("subscription.resume", "receipts"),
            ("dead.replay", "receipts"),
            ("subscription.pause", "receipts"),
        ]
        assert [a.who for a in actions[2:]] == ["alice", "alice"]
        assert "@" in actions[1].who
        assert (actions[2].detail, actions[2].result) == ("key='bad'", "1 dead letters")
        assert "canary" not in actions[0].detail
        assert await bus.journal.actions(limit=1, after=actions[0].cursor) == [actions[1]]


async def test_without_a_journal_nothing_is_written_and_nothing_fails(make: Make) -> None:
    bus = shop(make(journal=False))
    async with bus:
        await run(bus, "ok", "bad")
        await bus.dead.discard("receipts")
        assert not bus.journal.enabled
        assert (await bus.journal.series(600)).total.sum.handled == 0
        assert await bus.journal.attempts() == []
        assert await bus.journal.actions() == []


def test_a_variable_switches_it_off() -> None:
    assert not Bus.from_env(environ={"POSTBUS_JOURNAL": "no"}).journal._on


def ended(program: str) -> int:
    """Run a program in a process of its own; return how it ended."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=False, timeout=30)
    return done.returncode


async def test_all_processes_write_one_journal_and_a_killed_one_loses_a_second_at_most(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bus.db"
    program = textwrap.dedent(f"""
        import asyncio, os, signal
        from postbus import Bus, RawEvent
        async def main():
            bus = Bus({url!r})
            async with bus:
                for n in range(20):
                    await bus.publish(RawEvent("orders.order.placed", n))
                await bus.journal.flush()
                await bus.publish(RawEvent("orders.order.placed", "unflushed"))
                os.kill(os.getpid(), signal.SIGKILL)
        asyncio.run(main())
    """)
    codes = await asyncio.gather(*(asyncio.to_thread(ended, program) for _ in range(2)))
    assert codes == [-9, -9]
    async with shop(Bus(url)) as bus:
        await bus.drain()
        history = await bus.journal.series(600)
    assert 40 <= history.total.sum.published <= 42


class Unreliable:
    """A journal's store that can be away."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.away = False
        self.asked = 0

    async def record(self, records: list[Record]) -> None:
        self.asked += 1
        if self.away:
            raise TransportError("away")
        await self.store.record(records)

    async def records(self, *arguments: Any, **options: Any) -> Any:
        return await self.store.records(*arguments, **options)


async def test_an_outage_of_the_store_disturbs_no_work_and_loses_no_sums(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    bus = shop(make())
    async with bus:
        store = bus.journal._store = Unreliable(bus.transport)
        store.away = True
        await run(bus, *["ok"] * 100, "bad")
        await bus.journal.flush()
        await bus.journal.flush()
        await bus.subscriptions.pause("receipts")
        assert [r.message for r in caplog.records if "journal" in r.message] == [
            "the journal cannot be written, and goes on without: away"
        ]
        store.away = False
        history = await bus.journal.series(600)
        assert (history.total.sum.published, history.total.sum.handled, history.total.sum.buried) == (101, 100, 1)
        assert [a.what for a in await bus.journal.actions()] == ["subscription.pause"]
        assert len(await bus.journal.attempts(failed=True)) == 1
        assert store.asked >= 3


async def test_an_outage_without_end_fills_no_memory(make: Make) -> None:
    bus = make()

    @bus.subscriber("orders.>", retry=Retry(attempts=1))
    async def receipts(event: RawEvent) -> None:
        raise ValueError(str(event.payload))

    async with bus:
        store = bus.journal._store = Unreliable(bus.transport)
        store.away = True
        async with bus.worker():
            for _ in range(3):
                for n in range(1500):
                    await bus.publish(RawEvent("orders.order.placed", n))
                await bus.drain()
                await bus.journal.flush()
        assert len(bus.journal._pending) <= 2100
        assert bus.counters.journal_dropped >= 1500
        store.away = False
        assert (await bus.journal.series(600)).total.sum.buried == 4500


async def test_a_flood_of_successes_is_a_sample(make: Make) -> None:
    bus = shop(make())
    async with bus:
        began = asyncio.get_running_loop().time()
        await run(bus, *["ok"] * 500)
        seconds = asyncio.get_running_loop().time() - began
        attempts = await bus.journal.attempts(limit=1000)
    assert 1 <= len(attempts) <= 20 * (seconds + 2)


async def test_a_bus_that_is_opened_again_goes_on(make: Make) -> None:
    bus = shop(make())
    for _ in range(2):
        async with bus:
            await run(bus, "ok")
    async with bus:
        assert (await bus.journal.series(600)).total.sum.handled == 2


async def test_a_forked_child_tells_only_of_itself(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import os
        from postbus import Bus, RawEvent
        bus = Bus("sqlite:///{tmp_path}/bus.db")
        with bus:
            for n in range(5):
                bus.publish_sync(RawEvent("orders.order.placed", n))
            child = os.fork()
            if child == 0:
                with bus:
                    bus.publish_sync(RawEvent("orders.order.placed", "child"))
                os._exit(0)
            os.waitpid(child, 0)
    """)
    assert await asyncio.to_thread(ended, program) == 0
    async with Bus(f"sqlite:///{tmp_path}/bus.db") as bus:
        assert (await bus.journal.series(600)).total.sum.published == 6


def test_quantiles_are_estimated_inside_their_bucket() -> None:
    histogram = Histogram()
    for seconds in [0.003] * 90 + [0.3] * 10:
        histogram.add(seconds)
    counts = {place: count for place, count in enumerate(histogram.counts) if count}
    spread = Spread(100, histogram.total, counts)
    assert spread.mean == pytest.approx(0.0327)
    assert 0.002 <= (spread.p50 or 0) <= 0.005
    assert 0.2 <= (spread.p95 or 0) <= 0.5
    assert Spread().p95 is None
    histogram.add(1e9)
    assert histogram.counts[len(EDGES)] == 1
