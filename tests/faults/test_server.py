"""The server is killed, frozen, away or locked while events flow; the ledger says what that did.  FAULTS C."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ground import GROUNDS, Ground, at, grounds
from rig import Rig, rig

from postbus import Bus, PublishFailed, PublishUnknown, RawEvent
from servers import Server, own

# GUARANTEES 15: work goes on within so many seconds of the server's return.
RESUMED = 5.0


@pytest.fixture(params=GROUNDS)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Ground, Server]]:
    yield from grounds(request.param)


@pytest.fixture
def ground(place: tuple[Ground, Server]) -> Ground:
    return place[0]


@pytest.fixture
def server(place: tuple[Ground, Server]) -> Server:
    return place[1]


@pytest.fixture
def torment(ground: Ground, server: Server, tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, at(server.url, query=ground.hasty), pause=0.03) as made:  # so that events flow for 12 s and more
        yield made


async def resumed(torment: Rig, back_at: float) -> None:
    """Wait until something ends that began after the server was back, and see that it took no longer than promised."""
    begun: set[tuple[str, str]] = set()

    def so() -> bool:
        entries = torment.ledger.entries()
        begun.update((e.subscription, e.id) for e in entries if e.kind == "START" and e.at > back_at)
        return any(e.kind == "END" and (e.subscription, e.id) in begun for e in entries)

    await torment.until(so, RESUMED, "work goes on after the server is back")


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_nothing_accepted_is_lost_when_the_server_is_killed_and_comes_back(torment: Rig, server: Server) -> None:
    """Row 27, scaled down: three kills, a second of silence after each."""
    publishers = [torment.publisher(start, 2_000, 5) for start in (0, 2_000)]
    workers = [torment.worker(), torment.worker()]
    for _ in range(3):
        await torment.more_ends(200)
        server.kill()
        down_until = time.monotonic() + 1.0
        await torment.until(lambda: time.monotonic() > down_until, 10, "it is down")  # noqa: B023 - awaited in this turn
        server.start()
        await resumed(torment, time.monotonic())
    await torment.until(lambda: all(p.poll() == 0 for p in publishers), 60, "the publishers end")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted > 1_000, verdict
    assert not verdict.lost, verdict
    assert not verdict.unexpected, verdict
    assert not verdict.overlaps, verdict
    assert verdict.extra_starts <= 3 * 2 * 2 * torment.concurrency, verdict
    assert all(worker.poll() is None for worker in workers), "no worker was restarted for it"


@pytest.mark.timeout(60)
async def test_a_server_that_stands_still_holds_nobody_up_for_long(
    torment: Rig, ground: Ground, server: Server, tmp_path: Path
) -> None:
    """Row 28, scaled down to 5 s."""
    worker = torment.worker()
    publisher = torment.publisher(0, 100, 10)
    await torment.until(lambda: publisher.poll() == 0, 30, "the publisher ends")
    await torment.drained(30)
    async with Bus(torment.url, declare=False, publish_timeout=1.0) as bus:
        await bus.publish(RawEvent("rig.other.happened"))
        processes = [psutil.Process(pid) for pid in torment.running_pids(worker)]
        server.pause()
        try:
            lines, spent, began = torment.log_lines(), _cpu(processes), time.monotonic()
            with pytest.raises((PublishFailed, PublishUnknown)):
                await bus.publish(RawEvent("rig.other.happened"))
            assert time.monotonic() - began < 2.0, "it ends at its timeout"
            await torment.until(lambda: time.monotonic() > began + 5, 10, "time passes")
            took = time.monotonic() - began
            assert _cpu(processes) - spent < 0.05 * took, "it does not spin"
            assert torment.log_lines() - lines <= took, torment.log_tail()
        finally:
            server.resume()
    back_at = time.monotonic()
    torment.publisher(100, 100, 10)
    await resumed(torment, back_at)
    await torment.until(lambda: torment.ledger.count("ACK") + torment.ledger.count("FAILED") == 200, 30, "all is said")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert not verdict.lost, verdict
    assert verdict.extra_starts == 0, verdict


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


# -- at the start


def ended(torment: Rig, url: str, *options: str) -> tuple[int, float, str]:
    """Run a worker that cannot start; return its exit code, how long it took, and what it said."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "postbus", "worker", "app:bus", *options],
        cwd=Path(__file__).parent,
        env={**torment.env, "RIG_URL": url},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    return done.returncode, time.monotonic() - began, done.stdout + done.stderr


def test_a_worker_waits_for_a_server_that_is_not_up_and_then_gives_up(torment: Rig, server: Server) -> None:
    """Row 32."""
    server.stop()
    code, took, said = ended(torment, at(torment.url, user="me:canary"), "--connect-timeout", "1.5s")
    assert code == 3, said
    assert took >= 1.0
    assert "canary" not in said
    assert sum("CRITICAL" in line for line in said.splitlines()) == 1, said


def test_a_worker_that_is_not_let_in_ends_at_once(torment: Rig, ground: Ground, server: Server) -> None:
    """Row 32: a wrong database, no password, a wrong one."""
    for locked in own(ground.locked):
        for url in (
            at(torment.url, path=ground.no_database),
            at(locked.url, user=f"{ground.user}:canary2"),
            locked.url,
        ):
            code, took, said = ended(torment, url, "--connect-timeout", "25s")
            assert code == 3, said
            assert took < 20, "it does not wait for what waiting does not mend"
            assert "canary" not in said
            assert sum("CRITICAL" in line for line in said.splitlines()) == 1, said
            assert "refuses" in said or "no such database" in said or "does not exist" in said, said
