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
from rig_events import Blocked, Happened

from server_kinds import PostgresKind, RedisKind
from servers import own


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def torment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "sqlite":
        with rig(tmp_path, f"sqlite:///{tmp_path}/bus.db") as made:
            yield made
        return
    for server in own(RedisKind() if request.param == "redis" else PostgresKind()):
        with rig(tmp_path, server.url) as made:
            yield made


@pytest.mark.soak
@pytest.mark.timeout(180)
async def test_nothing_is_lost_however_often_workers_are_killed(torment: Rig) -> None:
    """Row 1: 10,000 events, 10 kills: twice as many for each event as 50 for 100,000."""
    events, kills = 10_000, 10
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
    torment.env["RIG_PAUSE"] = "0.02"  # so that events flow for at least 14 s
    publisher = torment.publisher(0, 3_500, 5)
    workers = [torment.worker(), torment.worker()]
    await torment.more_ends(100)
    for turn in range(4):
        pids = torment.running_pids(workers[turn % 2])
        torment.freeze(pids[0])
        thaw_at = time.monotonic() + 2.5 * torment.lease
        await torment.until(lambda: time.monotonic() > thaw_at, 30, "time passes")  # noqa: B023 - awaited in this turn
        torment.thaw(pids[0])
    await torment.until(lambda: publisher.poll() == 0, 60, "the publisher ends")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted == 3_500, verdict
    assert not verdict.lost, verdict
    assert not verdict.overlaps, verdict
    # A suspect whose worker stood still while it ran alone is charged: nobody can tell that from a death.
    assert sum(attempt > 1 for attempt in verdict.attempts.values()) <= 4, verdict


@pytest.mark.timeout(60)
async def test_a_run_longer_than_its_lease_is_not_started_twice(torment: Rig) -> None:
    """Row 3: a run of six leases, three idle workers watching."""
    for _ in range(3):
        torment.worker()
    await torment.declared("plain", "ordered")
    async with torment.bus() as bus:
        await bus.publish(Happened(1, seconds=6 * torment.lease))
    await torment.until(lambda: torment.ledger.count("END") == 2, 30, "both subscriptions end")
    assert torment.ledger.count("START") == 2


@pytest.mark.timeout(60)
@pytest.mark.parametrize("do", ["sleep", "spin"])
async def test_a_blocked_thread_keeps_its_lease_and_the_others_go_on(torment: Rig, do: str) -> None:
    """Row 4."""
    torment.env["RIG_BLOCK"] = "thread"
    for _ in range(2):
        torment.worker()
    await torment.declared("blocks")
    async with torment.bus() as bus:
        long = await bus.publish(Blocked(0, do=do, seconds=6 * torment.lease))
        await torment.until(lambda: torment.ledger.count("START") == 1, 20, "it starts")
        await bus.publish_many([Blocked(n, do="nothing") for n in range(1, 50)])
        await torment.until(lambda: torment.ledger.count("END") >= 49, 20, "the others end meanwhile")
        assert str(long.id) not in {entry.id for entry in torment.ledger.entries() if entry.kind == "END"}
    await torment.until(lambda: torment.ledger.count("END") == 50, 30, "it ends")
    assert torment.ledger.count("START") == 50


@pytest.mark.soak
@pytest.mark.timeout(90)
@pytest.mark.parametrize("where", ["thread", "process"])
async def test_code_that_holds_the_interpreter_runs_again_at_most_once(torment: Rig, where: str) -> None:
    """Row 5: a process that holds the interpreter cannot renew; in a child process it does not matter.

    Only the first run holds it: one that starved each of its runs would be run once for each of its attempts.
    """
    torment.env["RIG_BLOCK"] = where
    for _ in range(2):
        torment.worker()
    await torment.declared("blocks")
    async with torment.bus() as bus:
        await bus.publish(Blocked(0, do="hold", seconds=3 * torment.lease))
    await torment.until(lambda: torment.ledger.count("END") >= 1, 60, "it ends")
    await torment.drained(60)
    starts = torment.ledger.count("START")
    assert starts == 1 if where == "process" else starts <= 2
    if starts == 2:
        await torment.until(lambda: "heartbeat starved" in torment.log_tail(200), 30, "the first run lets go")


@pytest.mark.timeout(60)
async def test_a_message_that_kills_workers_convicts_only_itself(torment: Rig) -> None:
    """GUARANTEES 10: among good ones, with three attempts."""
    torment.worker()
    await torment.declared("plain", "ordered")
    async with torment.bus() as bus:
        await bus.publish_many([Happened(n, f"k{n}", seconds=0.01) for n in range(100)])
        killer = await bus.publish(Happened(100, "killer", "kill"))
        await bus.publish_many([Happened(n, f"k{n}", seconds=0.01) for n in range(101, 200)])
        await torment.drained(50)
        (letter,) = await bus.dead.list("plain")
    verdict = await torment.verdict()
    assert letter.envelope.id == killer.id
    assert letter.attempts == 3
    kills = verdict.starts["plain", str(killer.id)]
    assert 3 <= kills <= 4, "at most one crash more than the attempts"
    innocent = {delivery: n for delivery, n in verdict.attempts.items() if delivery[1] != str(killer.id)}
    assert max(innocent.values()) == 1
    assert len(innocent) == 2 * 199


def test_a_line_that_a_kill_has_cut_off_is_left_out_and_harms_no_other(tmp_path: Path) -> None:
    """The kernel may end a write at the border of two pages when its process is killed."""
    from postbus.testing.ledger import Ledger  # noqa: PLC0415 - beside what it proves

    ledger = Ledger(tmp_path / "l")
    ledger.note("START", "a", subscription="s", number=1769)
    whole = ledger.path.read_bytes()
    for length in range(1, len(whole)):
        ledger.path.write_bytes(whole[:length])
        ledger.note("END", "b", subscription="s", number=1)
        assert [(entry.kind, entry.id, entry.number) for entry in ledger.entries()] == [("END", "b", 1)]
    ledger.close()


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
