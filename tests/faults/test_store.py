"""Forks, clocks, delays and hostile bytes on the store itself.  FAULTS B, I."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from postbus import Bus, DeliveryContext, PublishFailed, RawEvent, Retry, event
from postbus.clock import SystemClock
from server_kinds import PostgresKind, RedisKind
from servers import own


@event("store.thing.happened", key="key")
@dataclass(frozen=True)
class Happened:
    number: int
    key: str = "k"


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/bus.db"
        return
    for server in own(RedisKind() if request.param == "redis" else PostgresKind()):
        yield server.url


on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


def test_eight_forked_publishers_make_distinct_ids_on_connections_of_their_own(url: str) -> None:
    """Row 25, scaled down."""
    bus, each = Bus(url), 300
    bus.add_subscriber(lambda event: None, Happened, name="all")
    with bus:
        bus.publish_sync(Happened(-1))
        children = []
        for child in range(8):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for n in range(each):
                        bus.publish_sync(Happened(child * each + n))
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 8
        bus.publish_sync(Happened(-2))  # the parent's own connection is as it was

    async def stored() -> int:
        async with bus:
            return (await bus.stats())["all"].backlog

    assert asyncio.run(stored()) == 8 * each + 2


@on_sqlite
async def test_a_store_that_is_held_by_somebody_fails_the_publish_in_time_and_for_good(
    url: str, tmp_path: Path
) -> None:
    """Row 26."""
    bus = Bus(url, publish_timeout=0.3)
    bus.add_subscriber(lambda event: None, Happened, name="all")
    async with bus:
        await bus.publish(Happened(1))
        other = sqlite3.connect(tmp_path / "bus.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(PublishFailed, match="busy"):
            await bus.publish(Happened(2))
        assert time.monotonic() - began < 5
        other.execute("COMMIT")
        other.close()
        await bus.publish(Happened(3))
        assert (await bus.stats())["all"].backlog == 2


class Jumping(SystemClock):
    """The machine's clock, set by somebody while work goes on: another kind would be the server's too, on Redis."""

    def __init__(self) -> None:
        self.offset = 0.0

    def time(self) -> float:
        return time.time() + self.offset

    def monotonic(self) -> float:
        return time.monotonic()


async def test_setting_the_clock_loses_no_lease(url: str) -> None:
    """Row 61: an hour forth and back, while a run goes on for six leases."""
    clock = Jumping()
    bus = Bus(url, clock=clock, lease=0.8)
    starts: list[int] = []

    @bus.subscriber(Happened)
    async def slow(event: Happened, context: DeliveryContext) -> None:
        starts.append(event.number)
        for jump in (3600.0, 0.0, -3600.0, 3600.0, -3600.0, 0.0):
            clock.offset = jump
            await asyncio.sleep(0.8)

    async with bus, bus.worker(), bus.worker():
        await bus.publish(Happened(1))
        async with asyncio.timeout(20):
            while bus.counters.acked < 1:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
    assert starts == [1]
    assert bus.counters.lease_lost == 0


async def test_no_retry_is_early_and_those_due_while_nobody_ran_come_at_the_start(url: str) -> None:
    """Row 62, scaled down."""
    bus = Bus(url)
    luck = random.Random(3)
    failed_at: dict[int, float] = {}
    waited: dict[int, float] = {}

    @bus.subscriber(Happened, concurrency=50, retry=Retry(attempts=2, delay=0.3, jitter=0))
    async def once_more(event: Happened, context: DeliveryContext) -> None:
        if context.attempt == 1:
            failed_at[event.number] = time.time()
            raise ConnectionError("later")
        waited[event.number] = time.time() - failed_at[event.number]

    async with bus:
        for n in range(200):
            await bus.publish(Happened(n), delay=luck.uniform(0, 0.2))
        await bus.drain()
        assert len(waited) == 200
        assert min(waited.values()) >= 0.3
        failed_at.clear()
        waited.clear()
        async with bus.worker():
            await bus.publish(Happened(1000))
            async with asyncio.timeout(20):
                while bus.counters.requeued < 201:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.005)
        await asyncio.sleep(0.35)  # nobody runs while it comes due: that is the case
        began = time.monotonic()
        async with bus.worker():
            async with asyncio.timeout(20):
                while 1000 not in waited:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.002)
        assert time.monotonic() - began < 10


HOSTILE = {
    "not msgpack": b"\xc1\xff\x00",
    "truncated": b"\x82\xa6number\x01",
    "deep": b"\x91" * 100_000 + b"\xc0",
    "a list of four billion": b"\xdd\xff\xff\xff\xff",
    "wrong types": b"\x82\xa6number\xa1x\xa3key\x01",
    "missing": b"\x80",
    "huge": b"\x82\xa6number\x01\xa3key\xdb\x00\x9f\xff\xff" + b"x" * 10_000_000,
    "time out of range": b"\x82\xa6number\xc7\x0c\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xa3key\xa1k",
}


@on_sqlite
async def test_hostile_bodies_written_into_the_store_become_dead_letters(url: str, tmp_path: Path) -> None:
    """Row 64."""
    bus = Bus(url)
    seen: list[int] = []

    @bus.subscriber(Happened, name="good")
    async def good(event: Happened) -> None:
        seen.append(event.number)

    async with bus:
        await bus.publish_many([Happened(n) for n in range(len(HOSTILE))])
        with sqlite3.connect(tmp_path / "bus.db") as other:
            rows = [row[0] for row in other.execute("SELECT seq FROM postbus_event ORDER BY seq")]
            for seq, body in zip(rows, HOSTILE.values(), strict=True):
                other.execute("UPDATE postbus_event SET body = ? WHERE seq = ?", (body, seq))
        other.close()
        await bus.publish(Happened(1000))
        await bus.drain()
        letters = await bus.dead.list("good")
    assert seen == [1000]
    assert len(letters) == len(HOSTILE)
    assert all(letter.reason.startswith("undecodable: ") for letter in letters)


async def test_a_payload_names_no_code(url: str) -> None:
    """Row 70: what looks like a class path is data."""
    bus = Bus(url)
    seen: list[object] = []
    bus.add_subscriber(lambda raw: seen.append(raw.payload), "store.>", name="raw")
    payload = {"__class__": "os.system", "$type": "System.Diagnostics.Process", "py/object": "builtins.eval"}
    async with bus:
        await bus.publish(RawEvent("store.thing.happened", payload))
        await bus.drain()
    assert seen == [payload]
