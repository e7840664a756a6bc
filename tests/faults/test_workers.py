"""Workers are killed, frozen and blocked while events flow; the ledger says what that did.  FAULTS A."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig, rig
from rig_events import Happened


@pytest.fixture(params=["sqlite"])
def torment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, f"sqlite:///{tmp_path}/bus.db") as made:
        yield made


@pytest.mark.soak
@pytest.mark.timeout(180)
async def test_nothing_is_lost_however_often_workers_are_killed(torment: Rig) -> None:
    """Row 1: 20,000 events, 20 kills."""
    events, kills = 20_000, 20
    luck = random.Random(1)
    publishers = [torment.publisher(start, events // 2) for start in (0, events // 2)]
    workers = [torment.worker(), torment.worker()]
    for _ in range(kills):
        await torment.more_ends(200)
        victims = [pid for worker in workers for pid in torment.running_pids(worker)]
        if victims:
            torment.kill(luck.choice(victims))
    killed_at = time.monotonic()
    await torment.until(lambda: all(p.poll() == 0 for p in publishers), 90, "the publishers end")
    await torment.drained(60)
    verdict = await torment.verdict()
    assert verdict.accepted == events, verdict
    assert not verdict.lost, verdict
    assert not verdict.unexpected, verdict
    assert not verdict.overlaps, verdict
    assert not verdict.disorder, verdict
    # What one kill can run again is what ran then: two subscriptions of ten slots each.
    assert verdict.extra_starts <= kills * 2 * torment.concurrency, verdict
    # A kill shared with others spends no attempt; one that meets a suspect running alone spends that one's.
    assert sum(attempt > 1 for attempt in verdict.attempts.values()) <= kills, verdict
    assert time.monotonic() - killed_at < 120


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_frozen_workers_are_fenced_off(torment: Rig) -> None:
    """A worker that stands still for longer than its lease loses what it held, and nothing is lost or out of order."""
    publisher = torment.publisher(0, 4_000)
    workers = [torment.worker(), torment.worker()]
    for turn in range(4):
        await torment.more_ends(100)
        pids = torment.running_pids(workers[turn % 2])
        if not pids:
            continue
        torment.freeze(pids[0])
        thaw_at = time.monotonic() + 2.5 * torment.lease
        await torment.until(lambda: time.monotonic() > thaw_at, 30, "time passes")  # noqa: B023 - awaited in this turn
        torment.thaw(pids[0])
    await torment.until(lambda: publisher.poll() == 0, 60, "the publisher ends")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted == 4_000, verdict
    assert not verdict.lost, verdict
    assert not verdict.overlaps, verdict
    assert max(verdict.attempts.values()) == 1, verdict


@pytest.mark.timeout(60)
async def test_a_run_longer_than_its_lease_is_not_started_twice(torment: Rig) -> None:
    """Row 3: a run of six leases, three idle workers watching."""
    workers = [torment.worker() for _ in range(3)]
    async with torment.bus() as bus:
        await torment.until(lambda: all(torment.running_pids(w) for w in workers), 20, "workers start")
        await _declared(bus, torment)
        await bus.publish(Happened(1, seconds=6 * torment.lease))
    await torment.until(lambda: torment.ledger.count("END") == 2, 30, "both subscriptions end")
    verdict = await torment.verdict()
    assert torment.ledger.count("START") == 2
    assert verdict.extra_starts == 0


async def _declared(bus: object, torment: Rig) -> None:
    """The workers declare the subscriptions: wait for that, since the rig's own bus declares nothing."""
    until = time.monotonic() + 20
    while len(await bus.subscriptions.list()) < 2:  # type: ignore[attr-defined]
        assert time.monotonic() < until, torment.log_tail()


def test_the_ledger_finds_what_is_wrong(tmp_path: Path) -> None:
    """A check that could not fail would prove nothing."""
    from postbus.testing.ledger import Ledger, judge  # noqa: PLC0415 - beside what it proves

    ledger = Ledger(tmp_path / "l")
    for event in ("a", "b", "c"):
        ledger.note("INTENT", event)
        ledger.note("ACK", event)
    ledger.note("START", "a", subscription="s", key="k", number=2)
    ledger.note("START", "a", subscription="s", key="k", number=2)
    ledger.note("END", "a", subscription="s", key="k", number=2)
    ledger.note("START", "b", subscription="s", key="k", number=1)
    ledger.note("END", "b", subscription="s", key="k", number=1)
    ledger.note("START", "x", subscription="s")
    verdict = judge(ledger.entries(), ["s"], ordered=["s"])
    assert verdict.lost == {("s", "c")}
    assert verdict.unexpected == {"x"}
    assert verdict.extra_starts == 1
    assert len(verdict.disorder) == 1
    assert os.getpid() == ledger.entries()[0].pid
    ledger.close()
