"""Transactional subscribers on PostgreSQL: effects and the done mark commit together, once."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from postbus import Bus, Context, DeliveryContext, Retry, event
from postbus.address import Address, Settings
from postbus.delivery import Delivery, Release
from postbus.envelope import Envelope, new_id
from postbus.errors import LeaseLost
from postbus.transport import Duplicate, Outgoing, Settled, SubscriptionSpec
from postbus.transports.postgres import PostgresTransport, connect


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@event("orders.order.billed", key="order_id")
@dataclass(frozen=True)
class OrderBilled:
    order_id: str


class Shop:
    """A table of bills, in a schema beside that of the bus."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"t{uuid4().hex[:12]}"
        self.connection = psycopg.connect(url, autocommit=True)
        self.connection.execute(f"CREATE SCHEMA shop_{self.namespace}".encode())
        self.connection.execute(f"CREATE TABLE {self.table} (order_id text)".encode())
        self.insert = f"INSERT INTO {self.table} VALUES (%s)".encode()

    @property
    def table(self) -> str:
        return f"shop_{self.namespace}.bill"

    def bills(self) -> list[str]:
        return [row[0] for row in self.connection.execute(f"SELECT order_id FROM {self.table}".encode())]

    def bus(self, **settings: Any) -> Bus:
        return Bus(self.url, namespace=self.namespace, **settings)

    def count(self, table: str) -> int:
        row = self.connection.execute(f"SELECT count(*) FROM {self.namespace}.{table}".encode()).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def shop(postgres_url: str) -> Iterator[Shop]:
    made = Shop(postgres_url)
    yield made
    for schema in (made.namespace, f"shop_{made.namespace}"):
        made.connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
    made.connection.close()


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_effects_commit_once_with_the_done_mark(shop: Shop, asynchronous: bool) -> None:
    bus = shop.bus()

    if asynchronous:

        @bus.subscriber(OrderPlaced, name="bill", transactional=True)
        async def in_the_loop(event: OrderPlaced, context: Context) -> None:
            await context.tx_as(psycopg.AsyncConnection).execute(shop.insert, (event.order_id,))
    else:

        @bus.subscriber(OrderPlaced, name="bill", transactional=True)
        def in_a_thread(event: OrderPlaced, context: Context) -> None:
            context.tx_as(psycopg.Connection).execute(shop.insert, (event.order_id,))
            context.publish_sync(OrderBilled(event.order_id))

    @bus.subscriber(OrderBilled)
    async def told(event: OrderBilled) -> None:
        pass

    async with bus:
        await bus.publish_many([OrderPlaced(f"o-{n}") for n in range(50)])
        await bus.drain()
        stats = await bus.stats()
    assert sorted(shop.bills()) == sorted(f"o-{n}" for n in range(50))
    assert stats["bill"].in_flight == stats["bill"].backlog == stats["bill"].dead == 0
    assert bus.counters.acked == (50 if asynchronous else 100)
    assert bus.counters.lease_lost == 0
    assert (shop.count("done"), shop.count("delivery"), shop.count("event")) == (50, 0, 0)


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_error_takes_the_effects_back_and_the_policy_decides(shop: Shop, asynchronous: bool) -> None:
    bus = shop.bus()
    attempts: list[int] = []
    options: dict[str, Any] = {"name": "bill", "transactional": True, "retry": Retry(attempts=2, delay=0.01)}

    def judge(event: OrderPlaced, context: DeliveryContext) -> None:
        attempts.append(context.attempt)
        if event.order_id == "never" or context.attempt == 1:
            raise ConnectionError("the bank is closed")

    async def in_the_loop(event: OrderPlaced, context: DeliveryContext) -> None:
        await context.tx.execute(shop.insert, (f"{event.order_id} {context.attempt}",))
        judge(event, context)

    def in_a_thread(event: OrderPlaced, context: DeliveryContext) -> None:
        context.tx.execute(shop.insert, (f"{event.order_id} {context.attempt}",))
        judge(event, context)

    bus.add_subscriber(in_the_loop if asynchronous else in_a_thread, OrderPlaced, **options)
    async with bus:
        await bus.publish(OrderPlaced("second"))
        await bus.publish(OrderPlaced("never"))
        await bus.drain()
        (letter,) = await bus.dead.list("bill")
        assert (letter.envelope.key, letter.attempts) == ("never", 2)
        assert await bus.dead.replay("bill") == 1
        await bus.drain()
    assert shop.bills() == ["second 2"]
    assert sorted(attempts) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_a_conflict_is_retried_in_place_once_and_then_by_the_policy(shop: Shop, asynchronous: bool) -> None:
    bus = shop.bus()
    runs: list[tuple[str, int]] = []
    conflict = b"DO $$ BEGIN RAISE EXCEPTION 'met another' USING ERRCODE = 'serialization_failure'; END $$"

    def meets(event: OrderPlaced, context: DeliveryContext) -> bool:
        runs.append((event.order_id, context.attempt))
        return runs.count((event.order_id, 1)) <= int(event.order_id) and context.attempt == 1

    async def in_the_loop(event: OrderPlaced, context: DeliveryContext) -> None:
        await context.tx.execute(shop.insert, (event.order_id,))
        if meets(event, context):
            await context.tx.execute(conflict)

    def in_a_thread(event: OrderPlaced, context: DeliveryContext) -> None:
        context.tx.execute(shop.insert, (event.order_id,))
        if meets(event, context):
            context.tx.execute(conflict)

    fn = in_the_loop if asynchronous else in_a_thread
    bus.add_subscriber(fn, OrderPlaced, name="bill", transactional=True, retry=Retry(attempts=2, delay=0.01))
    async with bus:
        await bus.publish(OrderPlaced("1"))  # meets another transaction once
        await bus.publish(OrderPlaced("2"))  # and this one twice
        await bus.drain()
    assert sorted(runs) == [("1", 1), ("1", 1), ("2", 1), ("2", 1), ("2", 2)]
    assert sorted(shop.bills()) == ["1", "2"]


async def test_one_effect_for_each_subscription_however_often_an_id_is_published(shop: Shop) -> None:
    """FAULTS 22: the same event for two subscriptions and two workers at once."""
    bus = shop.bus()

    def billing(name: str) -> Any:
        async def bill(event: OrderPlaced, context: Context) -> None:
            await context.tx.execute(shop.insert, (f"{name} {event.order_id}",))

        return bill

    for name in ("one", "two"):
        bus.add_subscriber(billing(name), OrderPlaced, name=name, transactional=True)
    event_id = uuid4()
    async with bus, bus.worker(), bus.worker():
        for wanted in (2, 4):
            for _ in range(3):
                await bus.publish(OrderPlaced("o-1"), id=event_id)
            async with asyncio.timeout(20):
                while bus.counters.acked < wanted:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.005)
            # The dedup window of publishes is shorter than the marks are kept: forget the ids, not the marks.
            shop.connection.execute(f"DELETE FROM {shop.namespace}.seen".encode())
    assert sorted(shop.bills()) == ["one o-1", "two o-1"]


async def test_two_deliveries_of_one_id_at_once_leave_one_effect(shop: Shop) -> None:
    """FAULTS 22: both are in their bodies before either commits; the loser runs again, and finds the mark."""
    bus = shop.bus()
    inside = asyncio.Barrier(2)
    runs = 0

    @bus.subscriber(OrderPlaced, name="bill", transactional=True)
    async def bill(event: OrderPlaced, context: Context) -> None:
        nonlocal runs
        runs += 1
        await context.tx.execute(shop.insert, (event.order_id,))
        await inside.wait()

    event_id = uuid4()
    async with bus:
        await bus.publish(OrderPlaced("o-1"), id=event_id)
        shop.connection.execute(f"DELETE FROM {shop.namespace}.seen".encode())
        await bus.publish(OrderPlaced("o-1"), id=event_id)
        began = time.monotonic()
        await bus.drain()
        assert time.monotonic() - began < 20
    assert (runs, shop.bills(), bus.counters.acked) == (2, ["o-1"], 2)
    assert (shop.count("delivery"), shop.count("event")) == (0, 0)


async def test_a_subscriber_that_ends_its_transaction_by_itself_is_told(shop: Shop) -> None:
    bus = shop.bus()

    @bus.subscriber(OrderPlaced, name="bill", transactional=True, retry=Retry(attempts=1))
    async def bill(event: OrderPlaced, context: Context) -> None:
        await context.tx.commit()

    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
        (letter,) = await bus.dead.list("bill")
    assert "must not commit" in letter.error


async def test_what_the_commit_refuses_is_a_failed_attempt(shop: Shop) -> None:
    bus = shop.bus()
    shop.connection.execute(
        f"ALTER TABLE {shop.table} ADD CONSTRAINT once UNIQUE (order_id) DEFERRABLE INITIALLY DEFERRED".encode()
    )

    @bus.subscriber(OrderPlaced, name="bill", transactional=True, retry=Retry(attempts=1))
    async def bill(event: OrderPlaced, context: Context) -> None:
        await context.tx.execute(shop.insert, (event.order_id,))
        await context.tx.execute(shop.insert, (event.order_id,))

    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
        (letter,) = await bus.dead.list("bill")
    assert "UniqueViolation" in letter.error
    assert shop.bills() == []


# -- the transport's side


def sealed(key: str | None = None) -> Outgoing:
    return Outgoing(Envelope(new_id(), "orders.order.placed", "orders.order", key, 1, 1, "text/plain", b"x"))


async def opened(shop: Shop, options: str = "", *, ordered: bool = False) -> PostgresTransport:
    transport = connect(Address.parse(shop.url + options), Settings(namespace=shop.namespace))
    await transport.open()
    await transport.declare([SubscriptionSpec(name="bill", wants=("orders.>",), ordered=ordered)])
    return transport


async def claimed(transport: PostgresTransport, lease: float = 30.0, *, alone: bool = False) -> Delivery:
    async with asyncio.timeout(20):
        while True:
            given = await transport.claim("bill", owner="a", limit=1, lease=lease, alone=alone)
            if given.deliveries:
                return given.deliveries[0]
            await asyncio.sleep(0.05)


async def test_a_frozen_run_holds_up_nobody_and_commits_nothing(shop: Shop) -> None:
    """GUARANTEES 4: the successor goes on while the frozen one's transaction is open, and only one commits."""
    transport = await opened(shop, ordered=True)
    await transport.append([sealed("k"), sealed("k")])
    first = await claimed(transport, lease=0.2)
    frozen, answer = await transport.begin_async(first)
    assert answer == Settled()
    await frozen.execute(shop.insert, ("frozen",))
    again = await claimed(transport, alone=True)
    assert again.envelope.id_bytes == first.envelope.id_bytes
    successor, answer = await transport.begin_async(again)
    await successor.execute(shop.insert, ("successor",))
    await transport.end_async(successor, commit=True)
    with pytest.raises(LeaseLost):
        await transport.end_async(frozen, commit=True)
    assert shop.bills() == ["successor"]
    behind = await claimed(transport)  # the key went on
    assert behind.envelope.id_bytes != first.envelope.id_bytes
    await transport.close()


async def test_a_lease_that_ended_is_not_begun_with(shop: Shop) -> None:
    transport = await opened(shop)
    await transport.append([sealed()])
    delivery = await claimed(transport)
    await transport.settle([(delivery, Release())])
    connection, answer = await transport.begin_async(delivery)
    assert isinstance(answer, LeaseLost)
    await transport.end_async(connection, commit=False)
    blocking = await asyncio.to_thread(transport.connect)
    assert isinstance(await asyncio.to_thread(transport.done_within, blocking, delivery), LeaseLost)
    await asyncio.to_thread(transport.end, blocking, commit=False)
    await transport.close()


async def test_a_mark_outlives_the_ids_and_goes_after_seven_days(shop: Shop) -> None:
    """FAULTS 23: a late duplicate is recognised for seven days, and runs again after them."""
    transport = await opened(shop)
    item = sealed()
    answers = []
    for age in ("0 days", "6.9 days", "7.1 days"):
        shop.connection.execute(f"DELETE FROM {shop.namespace}.seen".encode())
        shop.connection.execute(f"UPDATE {shop.namespace}.done SET done_at = now() - interval '{age}'".encode())
        await transport._upkeep.tidy()
        await transport.append([item])
        connection, answer = await transport.begin_async(await claimed(transport))
        await transport.end_async(connection, commit=True)
        answers.append(type(answer))
    assert answers == [Settled, Duplicate, Settled]
    await transport.close()


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(30)", None])
async def test_a_cancelled_run_leaves_no_open_transaction_behind(shop: Shop, statement: str | None) -> None:
    """FAULTS 24: cancelled within a statement, the connection is closed; the next one that is used really commits."""
    transport = await opened(shop, "?transactions=1")
    await transport.append([sealed(), sealed()])
    delivery = await claimed(transport)
    inside = asyncio.Event()

    async def run() -> None:
        connection, _ = await transport.begin_async(delivery)
        committed = False
        try:
            await connection.execute(shop.insert, ("cancelled",))
            inside.set()
            if statement is None:
                await asyncio.sleep(30)
            else:
                await connection.execute(statement.encode())
            committed = True
        finally:
            await transport.end_async(connection, commit=committed)

    task = asyncio.create_task(run())
    await inside.wait()
    await asyncio.sleep(0.02)  # it is in the statement by now; where not, it is cancelled before it
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    connection, answer = await transport.begin_async(await claimed(transport))
    assert answer == Settled()
    await connection.execute(shop.insert, ("kept",))
    await transport.end_async(connection, commit=True)
    assert shop.bills() == ["kept"]
    await transport.close()


async def test_a_run_finds_a_connection_after_the_idle_ones_were_ended(shop: Shop) -> None:
    transport = await opened(shop)
    await transport.append([sealed() for _ in range(4)])
    for _ in range(2):
        connection, answer = await transport.begin_async(await claimed(transport))
        assert answer == Settled()
        await transport.end_async(connection, commit=True)
        blocking = await asyncio.to_thread(transport.connect)
        answer = await asyncio.to_thread(transport.done_within, blocking, await claimed(transport))
        assert answer == Settled()
        await asyncio.to_thread(transport.end, blocking, commit=True)
        ended = [connection.info.backend_pid, blocking.info.backend_pid]
        shop.connection.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS u(pid)", (ended,))
        while shop.connection.execute("SELECT FROM pg_stat_activity WHERE pid = ANY(%s)", (ended,)).fetchall():
            pass
    await transport.close()


# -- FAULTS 16 and 21: a crash at every statement

CRASH = """
import asyncio, os, sys
from dataclasses import dataclass
from psycopg import Connection, Cursor
from postbus import Bus, Context, event

url, namespace, table, step, role = sys.argv[1:]
step, count = int(step), 0

def crashing(original):
    # os._exit right before a statement or right after it: odd steps are before one, even steps after.
    def run(*args, **kwargs):
        tick()
        result = original(*args, **kwargs)
        tick()
        return result
    return run

def tick():
    global count
    count += 1
    if count == step:
        os._exit(9)

@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str

bus = Bus(url, namespace=namespace, lease=0.5)
insert = f"INSERT INTO {table} VALUES (%s)".encode()

@bus.subscriber(OrderPlaced, name="bill", transactional=True)
def bill(event: OrderPlaced, context: Context) -> None:
    context.tx.execute(insert, (event.order_id,))
    context.tx.execute(b"SELECT 1")

def publish():
    with bus, Connection.connect(url) as connection:
        Cursor.execute, Connection.commit = crashing(Cursor.execute), crashing(Connection.commit)
        connection.execute(insert, ("order",))
        bus.publish_sync(OrderPlaced("within"), within=connection)
        connection.commit()
        os._exit(0)

async def work():
    async with bus:
        await bus.publish(OrderPlaced(f"o-{step}"))
        Cursor.execute = crashing(Cursor.execute)
        await bus.drain(timeout=20)

publish() if role == "publish" else asyncio.run(work())
os._exit(0)
"""


async def crash(shop: Shop, program: Path, step: int, role: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), shop.url, shop.namespace, shop.table, str(step), role, env={**os.environ}
    )
    return await process.wait()


@pytest.mark.timeout(180)  # a process for each step, and the machine may be busy
async def test_a_crash_at_any_statement_keeps_order_and_event_together(shop: Shop, tmp_path: Path) -> None:
    program = tmp_path / "crash.py"
    program.write_text(CRASH)
    await (await opened(shop)).close()
    step, code = 0, 9
    while code == 9:
        step += 1
        orders, events = len(shop.bills()), shop.count("delivery")
        code = await crash(shop, program, step, "publish")
        grown = (len(shop.bills()) - orders, shop.count("delivery") - events)
        assert grown[0] == grown[1], f"at step {step}: {grown[0]} orders and {grown[1]} events"
    assert code == 0
    assert step > 5, "the crashes were spread over the transaction's statements"
    assert grown == (1, 1)


@pytest.mark.timeout(180)  # a process for each step, and the machine may be busy
async def test_a_crash_at_any_statement_of_a_run_leaves_one_effect(shop: Shop, tmp_path: Path) -> None:
    """FAULTS 21: also when the effects were committed, and the process died before it knew."""
    program = tmp_path / "crash.py"
    program.write_text(CRASH)
    step, code = 0, 9
    while code == 9:
        step += 1
        code = await crash(shop, program, step, "work")
    assert code == 0
    assert step > 4, "the crashes were spread over the run's statements"
    # Whoever drained last ran what the others had left: each event has one effect.
    assert await crash(shop, program, 1000, "work") == 0
    assert sorted(shop.bills()) == sorted([*(f"o-{n}" for n in range(1, step + 1)), "o-1000"])
    assert shop.count("delivery") == 0
