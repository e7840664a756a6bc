"""SQLite's leases: they live with their owner, in a file beside the main one, however busy that is."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlite_ground import broken_laws, claim, item, items, opened, settle

from postbus.delivery import Delivery
from postbus.testing import ManualClock
from postbus.transport import Renewer, WorkerInfo
from postbus.transports.sqlite import SqliteTransport
from postbus.transports.sqlite.liveness import Renewer as SqliteRenewer

LEASE = 30.0
WORKER = WorkerInfo(
    owner="w", host="h", pid=1, version="0", started_at=datetime(2026, 1, 1, tzinfo=UTC), subscriptions=("s",),
    concurrency=10,
)  # fmt: skip


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def near(path: Path, clock: ManualClock) -> AsyncIterator[SqliteTransport]:
    transport = await opened(path, clock=clock)
    yield transport
    await transport.close()
    assert broken_laws(path) == []


@pytest.fixture
async def far(path: Path, clock: ManualClock, near: SqliteTransport) -> AsyncIterator[SqliteTransport]:
    transport = await opened(path, clock=clock)
    yield transport
    await transport.close()


async def taken(transport: SqliteTransport, count: int = 1) -> list[Delivery]:
    await transport.append(items(count))
    return list((await claim(transport, owner="w", lease=LEASE)).deliveries)


async def suspects(transport: SqliteTransport) -> int:
    count = 0
    while (await claim(transport, owner="other", lease=LEASE, alone=True)).deliveries:
        count += 1
    return count


def rows(path: Path) -> int:
    (sidecar,) = path.parent.glob("shop.db-workers-????????????")
    connection = sqlite3.connect(sidecar)
    (count,) = connection.execute("SELECT count(*) FROM postbus_worker").fetchone()
    connection.close()
    return int(count)


async def test_leases_are_renewed_while_somebody_else_writes_for_long(
    path: Path, near: SqliteTransport, far: SqliteTransport, clock: ManualClock
) -> None:
    deliveries = await taken(near, 3)
    hog = sqlite3.connect(path, isolation_level=None)
    hog.execute("BEGIN IMMEDIATE")
    renewer = near.renewer()
    for _ in range(10):
        clock.advance(LEASE * 0.9)
        assert not await asyncio.to_thread(renewer.renew, deliveries, LEASE)
        await asyncio.to_thread(renewer.beat, WORKER)
    hog.execute("COMMIT")
    hog.close()
    assert await suspects(far) == 0
    assert await settle(near, deliveries) == ["Settled"] * 3
    renewer.close()


async def test_a_renewer_holds_no_lock_while_it_stands_between_two_statements(
    path: Path, near: SqliteTransport, clock: ManualClock
) -> None:
    """A subscriber may hold the interpreter there, for seconds: all other workers' leases would end with its own."""
    deliveries = await taken(near)
    renewer = near.renewer()
    assert isinstance(renewer, SqliteRenewer)
    assert not renewer.renew(deliveries, LEASE)
    (sidecar,) = path.parent.glob("shop.db-workers-????????????")
    elsewhere = sqlite3.connect(sidecar, timeout=0, isolation_level=None)
    statements: list[str] = []

    def about_to_run(statement: str) -> None:
        elsewhere.execute("UPDATE postbus_worker SET lease = lease")  # when it is locked, nothing is noted
        statements.append(statement)

    renewer._sidecar.set_trace_callback(about_to_run)  # type: ignore[union-attr]
    for late in (0.5, 2.0):
        clock.advance(LEASE * late)
        assert not renewer.renew(deliveries, LEASE)
        renewer.beat(WORKER)
    assert [statement.split()[0] for statement in statements] == ["UPDATE"] * 4 + ["INSERT"] + ["UPDATE"] * 2
    elsewhere.close()
    renewer.close()


async def test_one_who_comes_back_late_keeps_what_nobody_took(
    near: SqliteTransport, far: SqliteTransport, clock: ManualClock
) -> None:
    deliveries = await taken(near, 2)
    renewer = near.renewer()
    clock.advance(LEASE * 3)
    assert not await asyncio.to_thread(renewer.renew, deliveries, LEASE)
    assert await suspects(far) == 0
    assert await settle(near, deliveries) == ["Settled"] * 2
    renewer.close()


async def test_one_who_comes_back_too_late_hears_what_it_lost(
    near: SqliteTransport, far: SqliteTransport, clock: ManualClock
) -> None:
    deliveries = await taken(near, 2)
    renewer = near.renewer()
    clock.advance(LEASE * 3)
    assert await suspects(far) == 2
    assert set(await asyncio.to_thread(renewer.renew, deliveries, LEASE)) == set(deliveries)
    assert await settle(near, deliveries) == ["LeaseLost"] * 2
    renewer.close()


async def test_a_sweep_and_a_late_renewal_never_both_have_the_delivery(
    path: Path, near: SqliteTransport, far: SqliteTransport, clock: ManualClock
) -> None:
    renewer = near.renewer()
    for _ in range(20):
        deliveries = await taken(near)
        clock.advance(LEASE * 2)
        lost, swept = await asyncio.gather(
            asyncio.to_thread(renewer.renew, deliveries, LEASE),
            claim(far, owner="other", lease=LEASE, alone=True),
        )
        assert len(lost) == len(swept.deliveries)
        for delivery in swept.deliveries:
            assert await settle(far, [delivery]) == ["Settled"]
        if not lost:
            assert await settle(near, deliveries) == ["Settled"]
    renewer.close()


async def test_a_renewer_needs_no_event_loop_and_sees_no_lock_of_the_writers(near: SqliteTransport) -> None:
    deliveries = await taken(near)
    renewer: Renewer = near.renewer()
    assert not renewer.renew(deliveries, LEASE), "on the event loop's thread, with the writer idle"
    renewer.close()


async def test_workers_that_die_leave_no_rows_behind(path: Path, near: SqliteTransport, clock: ManualClock) -> None:
    for number in range(30):
        renewer = near.renewer()
        renewer.beat(replace(WORKER, owner=f"w{number}"))
        await near.append([item()])
        await claim(near, owner=f"w{number}", lease=LEASE, limit=1)
        renewer.close()
        clock.advance(LEASE * 2)
    await claim(near, owner="last", lease=LEASE, limit=1)
    assert rows(path) <= 2
    assert len(await near.workers()) == 0


async def test_a_worker_that_says_it_is_gone_is_gone_and_its_leases_end_in_their_time(
    near: SqliteTransport, far: SqliteTransport, clock: ManualClock
) -> None:
    await taken(near, 2)
    renewer = near.renewer()
    renewer.beat(WORKER)
    assert [worker.owner for worker in await far.workers()] == ["w"]
    assert (await far.stats())[0].workers == 1
    renewer.beat(replace(WORKER, state="gone"))
    renewer.close()
    assert await far.workers() == []
    assert await suspects(far) == 0
    clock.advance(LEASE * 2)
    assert await suspects(far) == 2


async def test_what_the_dead_hold_is_backlog_before_anybody_sweeps(near: SqliteTransport, clock: ManualClock) -> None:
    await taken(near, 4)
    (stats,) = await near.stats()
    assert (stats.in_flight, stats.backlog) == (4, 0)
    clock.advance(LEASE * 2)
    (stats,) = await near.stats()
    assert (stats.in_flight, stats.backlog) == (0, 4)


async def test_the_wall_clock_moves_no_lease(near: SqliteTransport, far: SqliteTransport, clock: ManualClock) -> None:
    deliveries = await taken(near)
    for jump in (+3600, -7200, +3600):
        clock.set_time(clock.time() + jump)
        assert await suspects(far) == 0
    assert await settle(near, deliveries) == ["Settled"]


async def test_a_time_further_ahead_than_its_lease_is_of_another_boot(
    path: Path, near: SqliteTransport, far: SqliteTransport, clock: ManualClock
) -> None:
    await taken(near)
    (sidecar,) = path.parent.glob("shop.db-workers-????????????")
    with sqlite3.connect(sidecar) as connection:
        connection.execute("UPDATE postbus_worker SET alive_until = alive_until + 100000")
    connection.close()
    clock.advance(LEASE)
    assert await suspects(far) == 1


async def test_a_sidecar_file_that_a_crash_left_broken_is_made_anew(path: Path) -> None:
    transport = await opened(path)
    await taken(transport)
    await transport.close()
    (sidecar,) = path.parent.glob("shop.db-workers-????????????")
    sidecar.write_bytes(b"no database " * 1000)
    again = await opened(path)
    assert await suspects(again) == 1
    await again.close()


async def test_no_fence_is_given_again_though_claims_may_be_lost_with_the_power(path: Path) -> None:
    fences: list[int] = []
    for _ in range(3):
        transport = await opened(path)
        await transport.append(items(2))
        fences += [delivery.fence for delivery in (await claim(transport, limit=1)).deliveries]
        on_disk = stored(path)
        fences += [delivery.fence for delivery in (await claim(transport, limit=1)).deliveries]
        await transport.close()
        fail_power(path, on_disk)
    assert fences == sorted(set(fences))


def stored(path: Path) -> tuple[bytes, bytes]:
    """The file and its log, as they are now."""
    return path.read_bytes(), path.with_name("shop.db-wal").read_bytes()


def fail_power(path: Path, on_disk: tuple[bytes, bytes]) -> None:
    """What came after that was not forced to disk, and is gone."""
    path.write_bytes(on_disk[0])
    path.with_name("shop.db-wal").write_bytes(on_disk[1])


_KILLED = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from sqlite_ground import claim, opened

async def main():
    transport = await opened(Path({path!r}))
    assert len((await claim(transport, owner="killed", lease=0.5)).deliveries) == 3
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_what_a_killed_process_held_comes_back_as_suspects(path: Path) -> None:
    transport = await opened(path)
    await transport.append(items(3))
    program = _KILLED.format(here=str(Path(__file__).parent), path=str(path))
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=False)
    assert done.returncode == -9
    found: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(found) < 3:
            found += (await claim(transport, owner="other", lease=0.5, alone=True)).deliveries
    assert [(delivery.attempt, delivery.suspect) for delivery in found] == [(1, True)] * 3
    assert await settle(transport, found) == ["Settled"] * 3
    await transport.close()
    assert broken_laws(path) == []
