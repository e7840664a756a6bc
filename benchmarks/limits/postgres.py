"""psycopg on one table, no checks: what a queue in PostgreSQL cannot beat with that client.

An event is encoded into an envelope, as ours is, and the whole is one column.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, LiteralString
from uuid import UUID

import msgspec
import psycopg
from psycopg import AsyncConnection

from postbus.envelope import new_id

from ..child import ask, start
from ..load import NAME, TOPIC, OrderPlaced, Ping, decode, encode, latencies, order, pace, ping, rate, timed_async
from ..task import Measure, Task

_TABLE = """
CREATE TABLE queue (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id uuid NOT NULL, topic text NOT NULL, body bytea NOT NULL,
    claimed_at timestamptz, attempts integer NOT NULL DEFAULT 0
);
CREATE INDEX queue_ready ON queue (seq) WHERE claimed_at IS NULL;
CREATE TABLE offered (id uuid NOT NULL, subscription integer NOT NULL, state integer NOT NULL);
CREATE TABLE shop_order (id text NOT NULL, cents integer NOT NULL);
"""
INSERT: LiteralString = "INSERT INTO queue (id, topic, body) VALUES (%b, %b, %b)"
ORDER: LiteralString = "INSERT INTO shop_order (id, cents) VALUES (%b, %b)"
_CLAIM: LiteralString = """
WITH done AS (DELETE FROM queue WHERE seq = ANY(%b))
UPDATE queue SET claimed_at = now(), attempts = attempts + 1
WHERE seq IN (SELECT seq FROM queue WHERE claimed_at IS NULL ORDER BY seq LIMIT %b FOR UPDATE SKIP LOCKED)
RETURNING seq, body
"""
_NOTIFY: LiteralString = "SELECT pg_notify('queue', '')"
_BATCH = 100


class Sealed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An envelope, of the size of ours."""

    id: bytes
    name: str
    key: str
    micros: int
    body: bytes


_seal = msgspec.msgpack.Encoder().encode
_open = msgspec.msgpack.Decoder(Sealed).decode


def row(event: OrderPlaced) -> tuple[UUID, str, bytes]:
    """Its columns."""
    id_ = new_id()
    return UUID(bytes=id_), TOPIC, _seal(Sealed(id_, NAME, event.order_id, time.time_ns() // 1000, encode(event)))


def insert(task: Task) -> Measure:
    """One row after the other inside one open transaction."""
    make(task)
    with psycopg.connect(task.text("url")) as connection:
        return each(task.events, lambda: connection.execute(INSERT, row(order()), prepare=True))


def each(events: int, act: Callable[[], object]) -> Measure:
    """Microseconds that one costs, after a warm-up of a tenth."""
    for _ in range(events // 10):
        act()
    begun = time.perf_counter()
    for _ in range(events):
        act()
    return {"us an event": (time.perf_counter() - begun) / events * 1e6}


def writers(task: Task) -> Measure:
    """So many writers in two processes: each commits an order and a row of an event's size, over and over."""
    make(task)
    return writing(task, f"{__name__}:writing_rows")


def writing(task: Task, run: str) -> Measure:
    """Start two writing processes, and count from the first one's begin to the last one's end."""
    processes = [start(task.other(run)) for _ in range(2)]
    said = [ask(process, 100) for process in processes]
    measures = [answer.measure for answer in said if answer.measure is not None]
    if len(measures) < len(said):
        raise RuntimeError(next(answer.error or answer.missing for answer in said if answer.measure is None))
    seconds = max(measure["ended"] for measure in measures) - min(measure["began"] for measure in measures)
    return {"commits/s": sum(measure["commits"] for measure in measures) / seconds}


def writing_rows(task: Task) -> Measure:
    """One of the two processes of `writers`."""

    def write(connection: psycopg.Connection[Any], number: int) -> None:
        connection.execute(ORDER, (f"o-{number}", 4200), prepare=True)
        connection.execute(INSERT, row(order(number)), prepare=True)

    return in_threads(task, write)


def in_threads(task: Task, write: Callable[[psycopg.Connection[Any], int], None]) -> Measure:
    """Half of the writers, each in a thread with a connection of its own; they begin together.

    `sync` is how many microseconds a flush of the log waits first, as on a disk that takes so long.
    """
    threads = task.number("writers") // 2
    settings = f"-c commit_siblings=1 -c commit_delay={task.number('sync')}" if "sync" in task.options else ""
    commits = task.events // threads // 2
    times: list[float] = []
    barrier = threading.Barrier(threads, lambda: times.append(time.monotonic()))

    def work() -> None:
        with psycopg.connect(task.text("url"), options=settings) as connection:
            write(connection, 0)
            connection.commit()
            barrier.wait()
            for number in range(commits):
                write(connection, number)
                connection.commit()
        times.append(time.monotonic())

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return {"began": times[0], "ended": max(times), "commits": threads * commits}


def commits(task: Task) -> Measure:
    """So many coroutines, each with a connection: BEGIN, the INSERT of a transactional subscriber, COMMIT."""
    make(task)

    async def main() -> Measure:
        async with AsyncExitStack() as stack:
            slots = [await stack.enter_async_context(_connection(task)) for _ in range(task.number("concurrency"))]

            async def commit(connection: AsyncConnection, count: int) -> None:
                for number in range(count):
                    await connection.execute(b"BEGIN")
                    await connection.execute(ORDER, (f"o-{number}", 4200), prepare=True)
                    await connection.execute(b"COMMIT")

            async def loop(count: int) -> None:
                await asyncio.gather(*(commit(connection, count // len(slots)) for connection in slots))

            return await timed_async(loop, task.events)

    return asyncio.run(main())


def copy(task: Task) -> Measure:
    """COPY of as many rows for each batch; with `offered=1` as many again into a second table, as a fan-out needs."""
    make(task)

    async def main() -> Measure:
        batch, placed, offered = task.number("batch"), order(), bool(task.options.get("offered"))

        async def loop(count: int) -> None:
            for _ in range(count // batch):
                rows = [row(placed) for _ in range(batch)]
                async with connection.transaction(), connection.cursor() as cursor:
                    await _copy(cursor, rows)
                    if offered:
                        await _copy_offers(cursor, rows)

        async with _connection(task) as connection:
            return await timed_async(loop, task.events)

    return asyncio.run(main())


def drain(task: Task) -> Measure:
    """Claims of a batch with SKIP LOCKED, each together with the delete of the one before."""
    make(task)

    async def main() -> Measure:
        async with _connection(task) as connection:
            await _send(connection, task.events, 1000)
            begun = time.perf_counter()
            await _work(connection, task.events)
            return rate(task.events, time.perf_counter() - begun)

    return asyncio.run(main())


def both(task: Task) -> Measure:
    """COPY of 100 and a NOTIFY in another process, `drain` in this one, at once."""
    make(task)

    async def main() -> Measure:
        async with _connection(task) as connection:
            sender = start(task.other(f"{__name__}:send_many"))
            await _work(connection, task.events)
            ended = time.monotonic()
            said = await asyncio.to_thread(ask, sender, 10)
            assert said.measure is not None, said.error
            return rate(task.events, ended - said.measure["began"])

    return asyncio.run(main())


def send_many(task: Task) -> Measure:
    """The publisher process of `both`."""

    async def main() -> Measure:
        async with _connection(task) as connection:
            began = time.monotonic()
            await _send(connection, task.events, _BATCH)
            return {"began": began}

    return asyncio.run(main())


def latency(task: Task) -> Measure:
    """A publisher process at a steady rate, with a NOTIFY in each commit, and this one, which listens and claims."""
    make(task)

    async def main() -> list[float]:
        spans: list[float] = []
        async with _connection(task) as connection, _connection(task) as listening:
            await listening.execute("LISTEN queue")
            sender = start(task.other(f"{__name__}:send"))
            done: list[int] = []
            async for _ in listening.notifies():
                while rows := await _claimed(connection, done):
                    spans += [(time.monotonic_ns() - ping(_open(body).body).sent_ns) / 1e9 for _, body in rows]
                    done = [seq for seq, _ in rows]
                done = []
                if len(spans) == task.events:
                    break
            await asyncio.to_thread(ask, sender, 10)
        return spans

    return latencies(asyncio.run(main()))


def send(task: Task) -> Measure:
    """The publisher process of `latency`."""

    async def main() -> None:
        async with _connection(task) as connection:

            async def one() -> None:
                id_ = new_id()
                body = encode(Ping(time.monotonic_ns()))
                packed = _seal(Sealed(id_, "bench.ping.sent", "", time.time_ns() // 1000, body))
                async with connection.transaction():
                    await connection.execute(INSERT, (UUID(bytes=id_), TOPIC, packed), prepare=True)
                    await connection.execute(_NOTIFY)

            await pace(one, task.events, task.number("per_second"))

    asyncio.run(main())
    return {}


def make(task: Task) -> None:
    """Make the tables."""
    with psycopg.connect(task.text("url"), autocommit=True) as connection:
        connection.execute(_TABLE)


@asynccontextmanager
async def _connection(task: Task) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(task.text("url"), autocommit=True) as connection:
        yield connection


async def _send(connection: AsyncConnection, count: int, batch: int) -> None:
    placed = order()
    for _ in range(count // batch):
        async with connection.transaction(), connection.cursor() as cursor:
            await _copy(cursor, [row(placed) for _ in range(batch)])
            await cursor.execute(_NOTIFY)


async def _copy(cursor: Any, rows: Sequence[tuple[UUID, str, bytes]]) -> None:
    async with cursor.copy("COPY queue (id, topic, body) FROM STDIN (FORMAT BINARY)") as copying:
        copying.set_types(["uuid", "text", "bytea"])
        for columns in rows:
            await copying.write_row(columns)


async def _copy_offers(cursor: Any, rows: Sequence[tuple[UUID, str, bytes]]) -> None:
    async with cursor.copy("COPY offered (id, subscription, state) FROM STDIN (FORMAT BINARY)") as copying:
        copying.set_types(["uuid", "int4", "int4"])
        for columns in rows:
            await copying.write_row((columns[0], 1, 1))


async def _work(connection: AsyncConnection, count: int) -> None:
    async def subscriber(event: OrderPlaced) -> None:
        pass

    done: list[int] = []
    left = count
    while left or done:
        rows = await _claimed(connection, done)
        for _, body in rows:
            await subscriber(decode(_open(body).body))
        done = [seq for seq, _ in rows]
        left -= len(rows)
        if not rows and left:
            await asyncio.sleep(0.001)


async def _claimed(connection: AsyncConnection, done: list[int]) -> list[tuple[int, bytes]]:
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(_CLAIM, (done, _BATCH), prepare=True)
        rows: list[Any] = await cursor.fetchall()
        return rows
