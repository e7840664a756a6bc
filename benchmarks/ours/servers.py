"""What a bus costs its server: memory of what is stored, connections and processor time of those who wait."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from typing import Any

import psutil
import psycopg
import redis

from postbus import Bus, RawEvent

from ..child import ask, start
from ..load import order, rate
from ..task import Measure, Task
from .bus import CONCURRENCY, Count, fill, receipts, settled

_MIB = 2**20


def memory(task: Task) -> Measure:
    """Bytes that an event takes in Redis, for one subscription, its remembered id included."""

    async def main() -> Measure:
        url = task.text("url")
        async with receipts(url):
            with redis.Redis.from_url(url) as server:
                before = _used(server)
                await fill(url, task.events)
                return {"bytes an event": (_used(server) - before) / task.events}

    return asyncio.run(main())


def memory_back(task: Task) -> Measure:
    """What Redis holds above the baseline: full, drained, and when the ids are forgotten, as after 11 minutes."""

    async def main() -> Measure:
        url = task.text("url")
        await _through(url, 10_000)  # scripts and buffers are not what is measured
        with redis.Redis.from_url(url) as server:
            await _forget_ids(server)
            before = _used(server)
            await fill(url, task.events)
            full = _used(server)
            seconds = await _through(url, task.events, filled=True)
            drained = _used(server)
            await _forget_ids(server)
            left = _used(server)
        return {
            "MiB full": (full - before) / _MIB,
            "MiB drained": (drained - before) / _MIB,
            "MiB drained and forgotten": (left - before) / _MIB,
            **rate(task.events, seconds),
        }

    return asyncio.run(main())


async def _through(url: str, events: int, *, filled: bool = False) -> float:
    """Store and drain so many; return the seconds of draining."""
    if not filled:
        await fill(url, events)
    count = Count(events)
    async with receipts(url, count) as bus:
        begun = time.perf_counter()
        async with bus.worker() as worker:
            await count.reached.wait()
            await settled(bus, worker)
            seconds = time.perf_counter() - begun
            await asyncio.sleep(1)  # what is done is trimmed a little later
    return seconds


async def _forget_ids(server: redis.Redis) -> None:
    sets = list(server.scan_iter("*:i:*", count=1000))
    if sets:
        server.delete(*sets)
    await asyncio.sleep(1)  # the server lets go of large ones in a thread of its own


def idle(task: Task) -> Measure:
    """A worker with many subscriptions and nothing to do: its connections, and its share of a core."""

    async def main() -> Measure:
        url, seconds = task.text("url"), task.number("seconds")
        before = _connections(url)
        bus = Bus(url)
        for number in range(task.number("subscriptions")):
            bus.add_subscriber(_nothing, f"bench.idle.n{number}", name=f"idle-{number}")
        async with bus, bus.worker():
            await asyncio.sleep(1)
            used = time.process_time()
            await asyncio.sleep(seconds)
            share = 100 * (time.process_time() - used) / seconds
            return {"% of a core": share, "connections": _connections(url) - before}

    return asyncio.run(main())


def idle_workers(task: Task) -> Measure:
    """Many workers of one subscription with nothing to do: the share of a core that Redis needs for them."""

    async def main() -> Measure:
        url, seconds = task.text("url"), task.number("seconds")
        async with AsyncExitStack() as stack:
            for _ in range(task.number("workers")):
                bus = await stack.enter_async_context(receipts(url))
                await stack.enter_async_context(bus.worker())
            await asyncio.sleep(6)  # so that each has polled once, and they do so at times of their own
            with redis.Redis.from_url(url) as server:
                used = _processor(server)
                await asyncio.sleep(seconds)
                return {"% of a core": 100 * (_processor(server) - used) / seconds}

    return asyncio.run(main())


def costs(task: Task) -> Measure:
    """Microseconds of a core for each event: at the server and in the publisher, at the server and in the worker."""

    async def main() -> Measure:
        url = task.text("url")
        await _through(url, task.events // 10)
        begun = _cpu(url)
        await fill(url, task.events, batch=task.number("batch"))
        stored = _cpu(url)
        await _through(url, task.events, filled=True)
        drained = _cpu(url)
        spent = (stored[0] - begun[0], stored[1] - begun[1], drained[0] - stored[0], drained[1] - stored[1])
        names = ("us server, append", "us publisher", "us server, claim and settle", "us worker")
        return {name: seconds / task.events * 1e6 for name, seconds in zip(names, spent, strict=True)}

    return asyncio.run(main())


def _cpu(url: str) -> tuple[float, float]:
    """Seconds of a core that the server and this process have used."""
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as server:
            first = psutil.Process(_info(server, "server")["process_id"])
    else:
        with psycopg.connect(url) as connection:
            parent = psutil.Process(connection.info.backend_pid).parent()
        assert parent is not None
        first = parent
    used = 0.0
    for process in first.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended just now, and its parent counts it
            times = process.cpu_times()
            used += times.user + times.system
    times = first.cpu_times()
    return used + times.user + times.system + times.children_user + times.children_system, time.process_time()


def relayed(task: Task) -> Measure:
    """A worker forwards to Redis what was committed into PostgreSQL's outbox before it started."""

    async def main() -> Measure:
        url, outbox = task.text("url"), task.text("outbox")
        batch = [order()] * 100
        async with receipts(url) as receiving, Bus(url, outbox=outbox, concurrency=CONCURRENCY) as bus:
            for _ in range(task.events // len(batch)):
                await bus.publish_many(batch)
            begun = time.perf_counter()
            async with bus.worker():
                while (await receiving.stats()).backlog < task.events:  # noqa: ASYNC110 - no bell says it
                    await asyncio.sleep(0.01)
                return rate(task.events, time.perf_counter() - begun)

    return asyncio.run(main())


def aged(task: Task) -> Measure:
    """A publisher and a worker go on and on; how fast they are at the end, of what they were at first.

    With `open=1` another connection holds a transaction open from before the first event, as a report or a backup does:
    then nothing that is deleted may be tidied away.
    """

    async def main() -> Measure:
        url, count = task.text("url"), Count(task.events)
        stamps: list[tuple[int, float]] = []

        async def look() -> None:
            while not count.reached.is_set():
                stamps.append((count.seen, time.monotonic()))
                await asyncio.sleep(0.1)

        async with receipts(url, count) as bus, bus.worker() as worker:
            with psycopg.connect(url) as elsewhere:
                if task.options.get("open"):
                    elsewhere.execute("SELECT pg_current_xact_id(), count(*) FROM pg_class")
                sender = start(task.other("benchmarks.ours.road:send_many"))
                looking = asyncio.create_task(look())
                await count.reached.wait()
                await settled(bus, worker)
                await looking
                await asyncio.to_thread(ask, sender, 10)
        fresh, late = _speed(stamps, 0.02, 0.12, task.events), _speed(stamps, 0.9, 0.99, task.events)
        seconds = stamps[-1][1] - stamps[0][1]
        return {"% of the fresh rate": 100 * late / fresh, "events/s fresh": fresh, "events/s late": late, "s": seconds}

    return asyncio.run(main())


def _speed(stamps: list[tuple[int, float]], first: float, last: float, events: int) -> float:
    within = [stamp for stamp in stamps if first * events <= stamp[0] <= last * events]
    (seen, begun), (until, ended) = within[0], within[-1]
    return (until - seen) / (ended - begun)


async def _nothing(event: RawEvent) -> None:
    """Handle nothing."""


def _used(server: redis.Redis) -> int:
    return int(_info(server, "memory")["used_memory"])


def _processor(server: redis.Redis) -> float:
    about = _info(server, "cpu")
    return float(about["used_cpu_sys"]) + float(about["used_cpu_user"])


def _info(server: redis.Redis, part: str) -> dict[str, Any]:
    found: Any = server.info(part)
    return dict(found)


def _connections(url: str) -> int:
    """Of other clients than this question."""
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as server:
            return int(_info(server, "clients")["connected_clients"]) - 1
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
        ).fetchone()
        assert row is not None
        return int(row[0])
