"""pgqueuer on asyncpg, its fastest driver, in batches of 100."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from ..child import ask, start
from ..load import Ping, decode, encode, latencies, order, pace, ping, rate, timed_async
from ..task import Measure, Task

_NAME = "receipt"
_BATCH = 100


def publish_many(task: Task) -> Measure:
    """`enqueue` of as many jobs, one call after the other."""

    async def main() -> Measure:
        async with _queries(task, install=True) as queries:
            return await timed_async(lambda count: _send(queries, count, task.number("batch")), task.events)

    return asyncio.run(main())


def drain(task: Task) -> Measure:
    """Its own loop empties what was stored before it started."""

    async def main() -> Measure:
        async with _queries(task, install=True) as queries:
            await _send(queries, task.events, _BATCH)
        begun = time.perf_counter()
        await _run(task, lambda job: decode(job.payload or b""))
        return rate(task.events, time.perf_counter() - begun)

    return asyncio.run(main())


def both(task: Task) -> Measure:
    """A publisher process and this one, which works."""

    async def main() -> Measure:
        async with _queries(task, install=True):
            pass
        sender = start(task.other(f"{__name__}:send_many"))
        await _run(task, lambda job: decode(job.payload or b""))
        ended = time.monotonic()
        said = await asyncio.to_thread(ask, sender, 10)
        assert said.measure is not None, said.error
        return rate(task.events, ended - said.measure["began"])

    return asyncio.run(main())


def send_many(task: Task) -> Measure:
    """The publisher process of `both`."""

    async def main() -> Measure:
        async with _queries(task) as queries:
            began = time.monotonic()
            await _send(queries, task.events, _BATCH)
            return {"began": began}

    return asyncio.run(main())


def latency(task: Task) -> Measure:
    """A publisher process at a steady rate, and this one, which works."""

    async def main() -> list[float]:
        spans: list[float] = []

        def note(job: Job) -> None:
            spans.append((time.monotonic_ns() - ping(job.payload or b"").sent_ns) / 1e9)

        async with _queries(task, install=True):
            pass
        sender = start(task.other(f"{__name__}:send"))
        await _run(task, note)
        await asyncio.to_thread(ask, sender, 10)
        return spans

    return latencies(asyncio.run(main()))


def send(task: Task) -> Measure:
    """The publisher process of `latency`."""

    async def main() -> None:
        async with _queries(task) as queries:
            await asyncio.sleep(0.5)

            async def one() -> None:
                await queries.enqueue(_NAME, encode(Ping(time.monotonic_ns())))

            await pace(one, task.events, task.number("per_second"))

    asyncio.run(main())
    return {}


async def _run(task: Task, note: Callable[[Job], object]) -> None:
    """Work until all have been seen.  Jobs that have ended are written to its log table, as it always does."""
    logging.disable(logging.CRITICAL)
    connection = await asyncpg.connect(task.text("url"))
    queue = PgQueuer.from_asyncpg_connection(connection)
    left, reached = task.events, asyncio.Event()

    @queue.entrypoint(_NAME)
    async def receipt(job: Job) -> None:
        nonlocal left
        note(job)
        left -= 1
        if not left:
            reached.set()

    running = asyncio.create_task(queue.run(batch_size=_BATCH))
    seen = asyncio.create_task(reached.wait())
    await asyncio.wait([running, seen], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        await running
    running.cancel()


async def _send(queries: Queries, count: int, batch: int) -> None:
    placed = order()
    for _ in range(count // batch):
        await queries.enqueue([_NAME] * batch, [encode(placed) for _ in range(batch)], [0] * batch)


@asynccontextmanager
async def _queries(task: Task, *, install: bool = False) -> AsyncIterator[Queries]:
    connection = await asyncpg.connect(task.text("url"))
    try:
        queries = Queries.from_asyncpg_connection(connection)
        if install:
            await queries.install()
        yield queries
    finally:
        await connection.close()
