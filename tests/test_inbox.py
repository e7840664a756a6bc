"""Transactional subscribers: effects, consequences and the done mark commit together, once."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from postbus import Bus, ConfigError, Context, DeliveryContext, Retry, event


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@event("orders.order.billed", key="order_id")
@dataclass(frozen=True)
class OrderBilled:
    order_id: str


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE bill (order_id TEXT)")
    connection.close()
    return tmp_path / "shop.db"


def bills(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT order_id FROM bill ORDER BY rowid")]
    finally:
        connection.close()


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_effects_and_consequences_commit_with_the_done_mark(path: Path, asynchronous: bool) -> None:
    bus = Bus(f"sqlite:///{path}")
    billed: list[str] = []

    def bill(event: OrderPlaced, context: Context) -> None:
        tx = context.tx_as(sqlite3.Connection)
        tx.execute("INSERT INTO bill VALUES (?)", (event.order_id,))

    if asynchronous:

        @bus.subscriber(OrderPlaced, name="bill", transactional=True)
        async def in_the_loop(event: OrderPlaced, context: Context) -> None:
            bill(event, context)
            await asyncio.sleep(0)
            await context.publish(OrderBilled(event.order_id))
    else:

        @bus.subscriber(OrderPlaced, name="bill", transactional=True)
        def in_a_thread(event: OrderPlaced, context: Context) -> None:
            bill(event, context)
            context.publish_sync(OrderBilled(event.order_id))

    @bus.subscriber(OrderBilled)
    async def told(event: OrderBilled) -> None:
        billed.append(event.order_id)

    async with bus:
        await bus.publish_many([OrderPlaced(f"o-{n}") for n in range(20)])
        await bus.drain()
        stats = await bus.stats()
    assert sorted(bills(path)) == sorted(billed) == sorted(f"o-{n}" for n in range(20))
    assert stats["bill"].in_flight == stats["bill"].backlog == stats["bill"].dead == 0
    assert bus.counters.acked == 40
    assert bus.counters.lease_lost == 0


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_after_commit_handlers_of_what_it_publishes_wait_for_its_commit(path: Path, asynchronous: bool) -> None:
    bus = Bus(f"sqlite:///{path}")
    seen: list[tuple[str, list[str]]] = []

    @bus.on(OrderBilled, after_commit=True)
    def told(event: OrderBilled) -> None:
        seen.append((event.order_id, bills(path)))

    def bill(event: OrderPlaced, context: DeliveryContext) -> None:
        context.tx.execute("INSERT INTO bill VALUES (?)", (event.order_id,))
        context.publish_sync(OrderBilled(f"{event.order_id}, attempt {context.attempt}"))
        context.tx.execute("SAVEPOINT s")
        context.publish_sync(OrderBilled("taken back"))
        context.tx.execute("ROLLBACK TO s")
        if context.attempt == 1:
            raise RuntimeError("not yet")

    async def bill_async(event: OrderPlaced, context: DeliveryContext) -> None:
        context.tx.execute("INSERT INTO bill VALUES (?)", (event.order_id,))
        await context.publish(OrderBilled(f"{event.order_id}, attempt {context.attempt}"))
        if context.attempt == 1:
            raise RuntimeError("not yet")

    retry = Retry(attempts=2, delay=0.01)
    bus.add_subscriber(bill_async if asynchronous else bill, OrderPlaced, name="bill", transactional=True, retry=retry)
    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
        assert await bus.dead.list() == []
    assert seen == [("o-1, attempt 2", ["o-1"])]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_error_takes_the_effects_back_and_the_policy_decides(path: Path, asynchronous: bool) -> None:
    bus = Bus(f"sqlite:///{path}")
    attempts: list[int] = []
    options = {"name": "bill", "transactional": True, "retry": Retry(attempts=2, delay=0.01)}

    def bill(event: OrderPlaced, context: DeliveryContext) -> None:
        context.tx.execute("INSERT INTO bill VALUES (?)", (f"{event.order_id} {context.attempt}",))
        attempts.append(context.attempt)
        if event.order_id == "never" or context.attempt == 1:
            raise ConnectionError("the bank is closed")

    if asynchronous:

        async def in_the_loop(event: OrderPlaced, context: DeliveryContext) -> None:
            bill(event, context)

        bus.add_subscriber(in_the_loop, OrderPlaced, **options)  # type: ignore[arg-type]
    else:
        bus.add_subscriber(bill, OrderPlaced, **options)  # type: ignore[arg-type]
    async with bus:
        await bus.publish(OrderPlaced("second"))
        await bus.publish(OrderPlaced("never"))
        await bus.drain()
        (letter,) = await bus.dead.list("bill")
        assert (letter.envelope.key, letter.attempts) == ("never", 2)
        assert await bus.dead.replay("bill") == 1
        await bus.drain()
    assert bills(path) == ["second 2"]
    assert sorted(attempts) == [1, 1, 1, 2, 2, 2]


async def test_one_effect_for_each_subscription_however_often_an_id_is_published(path: Path) -> None:
    """FAULTS 22: the same event for two subscriptions and two workers at once."""
    bus = Bus(f"sqlite:///{path}")

    def billing(name: str) -> Callable[[OrderPlaced, Context], None]:
        def bill(event: OrderPlaced, context: Context) -> None:
            context.tx.execute("INSERT INTO bill VALUES (?)", (f"{name} {event.order_id}",))

        return bill

    for name in ("one", "two"):
        bus.add_subscriber(billing(name), OrderPlaced, name=name, transactional=True)
    event_id = uuid4()
    async with bus, bus.worker(), bus.worker():
        for _ in range(3):
            await bus.publish(OrderPlaced("o-1"), id=event_id)
        async with asyncio.timeout(20):
            while bus.counters.acked < 2:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.005)
        # The dedup window of publishes is shorter than the marks are kept: forget the ids, not the marks.
        forget = sqlite3.connect(path)
        with forget:
            forget.execute('DELETE FROM "postbus_seen"')
        forget.close()
        await bus.publish(OrderPlaced("o-1"), id=event_id)
        async with asyncio.timeout(20):
            while bus.counters.acked < 4:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.005)
    assert sorted(bills(path)) == ["one o-1", "two o-1"]


def test_a_transactional_subscriber_without_a_database_is_refused() -> None:
    bus = Bus()
    bus.add_subscriber(lambda event: None, OrderPlaced, name="bill", transactional=True)
    with pytest.raises(ConfigError, match="in no database"):
        bus.make_worker()


# -- FAULTS 16 and 21: a crash at every step

CRASH = """
import os, sqlite3, sys
from dataclasses import dataclass
from postbus import Bus, event

path, step = sys.argv[1], int(sys.argv[2])
count = 0

def crash(name):
    # os._exit at the step-th statement that the process executes from here on.
    global count
    count += 1
    if count == step:
        os._exit(9)

@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str

bus = Bus(f"sqlite:///{path}")
bus.add_subscriber(lambda event: None, OrderPlaced, name="bill")
connection = sqlite3.connect(path, isolation_level=None)
with bus:
    bus.publish_sync(OrderPlaced("before"))
    connection.set_trace_callback(crash)
    with bus.transaction(connection) as tx:
        tx.execute("INSERT INTO bill VALUES ('order')")
        bus.publish_sync(OrderPlaced("within"), within=tx)
    os._exit(0)
"""


async def test_a_crash_at_any_statement_keeps_order_and_event_together(path: Path, tmp_path: Path) -> None:
    program = tmp_path / "crash.py"
    program.write_text(CRASH)
    step, code = 0, 9
    while code == 9:
        step += 1
        before = (len(bills(path)), await backlog(path))
        process = await asyncio.create_subprocess_exec(sys.executable, str(program), str(path), str(step))
        code = await process.wait()
        after = (len(bills(path)), await backlog(path))
        orders, events = after[0] - before[0], after[1] - before[1] - 1  # one was published before
        assert orders == events, f"at statement {step}: {orders} orders and {events} events"
    assert code == 0
    assert step > 5, "the crashes were spread over the transaction's statements"
    assert orders == 1


async def backlog(path: Path) -> int:
    async with Bus(f"sqlite:///{path}", declare=False) as bus:
        stats = await bus.stats()
    return stats["bill"].backlog if stats else 0
