"""One table, one connection, no checks: what a queue in SQLite cannot beat with the standard library's driver."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path
from typing import TypeAlias

from postbus.envelope import new_id

from ..child import ask, start
from ..load import NAME, TOPIC, OrderPlaced, Ping, decode, encode, latencies, order, pace, ping, rate, timed
from ..task import Measure, Task

Columns: TypeAlias = tuple[bytes, str, str, str | None, int, bytes]

_TABLE = """
CREATE TABLE queue (
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL, name TEXT NOT NULL, topic TEXT NOT NULL, key TEXT,
    micros INTEGER NOT NULL, body BLOB NOT NULL, claimed_at REAL, attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX queue_ready ON queue (seq) WHERE claimed_at IS NULL;
"""
_INSERT = "INSERT INTO queue (id, name, topic, key, micros, body) VALUES (?, ?, ?, ?, ?, ?)"
_CLAIM = """
UPDATE queue SET claimed_at = ?, attempts = attempts + 1
WHERE seq IN (SELECT seq FROM queue WHERE claimed_at IS NULL ORDER BY seq LIMIT ?)
RETURNING seq, body
"""
_DELETE = "DELETE FROM queue WHERE seq = ?"


def publish_one_by_one(task: Task) -> Measure:
    """One INSERT and one commit, on disk, for each event."""
    insert, placed = _queue(task.place).execute, order()

    def loop(count: int) -> None:
        for _ in range(count):
            insert(_INSERT, _columns(placed))

    return timed(loop, task.events)


def publish_many(task: Task) -> Measure:
    """`executemany` in transactions of `batch` rows."""
    queue, placed, batch = _queue(task.place), order(), task.number("batch")

    def loop(count: int) -> None:
        for _ in range(count // batch):
            _append(queue, [_columns(placed) for _ in range(batch)])

    return timed(loop, task.events)


def drain(task: Task) -> Measure:
    """Claims of `batch`; the deletes of one batch share a transaction with the claim of the next."""
    queue, placed = _queue(task.place), order()
    for _ in range(0, task.events, 1000):
        _append(queue, [_columns(placed) for _ in range(1000)])

    async def subscriber(event: OrderPlaced) -> None:
        pass

    async def work() -> int:
        done: list[tuple[int]] = []
        handled = 0
        while True:
            rows = _settle_and_claim(queue, done, task.number("batch"))
            if not rows:
                return handled
            for _, body in rows:
                await subscriber(decode(body))
            handled += len(rows)
            done = [(seq,) for seq, _ in rows]

    begun = time.perf_counter()
    handled = asyncio.run(work())
    return rate(handled, time.perf_counter() - begun)


def latency(task: Task) -> Measure:
    """A publisher process and this one, which looks at `data_version` every millisecond."""
    _queue(task.place)
    sender = start(task.other(f"{__name__}:send"))
    spans = _receive(task)
    ask(sender, 10)
    return latencies(spans)


def send(task: Task) -> Measure:
    """The publisher process of `latency`."""
    queue = _connect(task.place)

    async def one() -> None:
        body = encode(Ping(time.monotonic_ns()))
        queue.execute(_INSERT, (new_id(), "bench.ping.sent", "bench.ping", None, time.time_ns() // 1000, body))

    asyncio.run(pace(one, task.events, task.number("per_second")))
    return {}


def idle(task: Task) -> Measure:
    """One process that looks at `data_version` every millisecond."""
    queue = _queue(task.place)

    begun, used = time.monotonic(), time.process_time()
    while time.monotonic() < begun + task.number("seconds"):
        queue.execute("PRAGMA data_version").fetchone()
        time.sleep(0.001)
    return {"% of a core": 100 * (time.process_time() - used) / (time.monotonic() - begun)}


def _receive(task: Task) -> list[float]:
    queue = _connect(task.place)
    spans: list[float] = []
    done: list[tuple[int]] = []
    seen = -1
    while len(spans) < task.events:
        version = queue.execute("PRAGMA data_version").fetchone()[0]
        if version == seen:
            time.sleep(0.001)
            continue
        rows = _settle_and_claim(queue, done, 100)
        seen = version if len(rows) < 100 else -1
        spans += [(time.monotonic_ns() - ping(body).sent_ns) / 1e9 for _, body in rows]
        done = [(seq,) for seq, _ in rows]
    return spans


def _queue(place: Path) -> sqlite3.Connection:
    connection = _connect(place)
    connection.executescript(_TABLE)
    return connection


def _connect(place: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(place / "raw.db", isolation_level=None, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _columns(placed: OrderPlaced) -> Columns:
    return new_id(), NAME, TOPIC, placed.order_id, time.time_ns() // 1000, encode(placed)


def _append(queue: sqlite3.Connection, rows: list[Columns]) -> None:
    queue.execute("BEGIN IMMEDIATE")
    queue.executemany(_INSERT, rows)
    queue.execute("COMMIT")


def _settle_and_claim(queue: sqlite3.Connection, done: list[tuple[int]], limit: int) -> list[tuple[int, bytes]]:
    queue.execute("BEGIN IMMEDIATE")
    queue.executemany(_DELETE, done)
    rows = queue.execute(_CLAIM, (time.time(), limit)).fetchall()
    queue.execute("COMMIT")
    return rows
