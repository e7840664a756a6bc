"""Transactional subscribers in the user's own transactions: one effect, wherever the delivery lives."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from desks import place_of
from sources import SOURCES, Kind
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from postbus import Bus, ConfigError, DeliveryContext, PostbusError, Retry, event
from postbus.drivers import driver_of, perform
from postbus.transport import Unknown


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@event("orders.order.billed", key="order_id")
@dataclass(frozen=True)
class OrderBilled:
    order_id: str


each = pytest.mark.parametrize("kind", SOURCES, ids=str)
nearby = pytest.mark.parametrize("near", [True, False], ids=["same-database", "redis"])


class Shop:
    """The database that subscribers write to, and the bus whose events may live elsewhere."""

    def __init__(self, kind: Kind, url: str, transport: str, source: Any) -> None:
        self.kind = kind
        self.url = url
        self.namespace = f"t{uuid4().hex[:12]}"
        self.table = f"{self.namespace}_bill"
        self.transport = transport
        self.source = source
        self.run(f"CREATE TABLE {self.table} (name text)")

    def bus(self, **options: Any) -> Bus:
        return Bus(self.transport, namespace=self.namespace, transactions=self.source, **options)

    def run(self, sql: str) -> list[Any]:
        connection: Any = (
            sqlite3.connect(place_of(self.url)) if self.kind.dialect == "sqlite" else psycopg.connect(self.url)
        )
        try:
            found = connection.execute(sql)
            rows = found.fetchall() if found.description else []
            connection.commit()
            return list(rows)
        finally:
            connection.close()

    def bills(self) -> list[str]:
        return [row[0] for row in self.run(f"SELECT name FROM {self.table} ORDER BY name")]

    def marks(self) -> int:
        return int(self.run(f'SELECT count(*) FROM "{self.namespace}_inbox"')[0][0])

    def billing(
        self, body: Callable[[OrderPlaced, DeliveryContext], object] = lambda event, context: None
    ) -> Callable[..., Any]:
        """A subscriber that writes a bill, and publishes that it did."""
        insert = f"INSERT INTO {self.table} (name) VALUES ('%s')"
        execute = self.kind.execute

        def bill(event: OrderPlaced, context: DeliveryContext) -> None:
            execute(context.tx_as(self.kind.type), insert % event.order_id)
            context.publish_sync(OrderBilled(event.order_id))
            body(event, context)

        async def bill_async(event: OrderPlaced, context: DeliveryContext) -> None:
            await execute(context.tx_as(self.kind.type), insert % event.order_id)
            if self.transport == self.url:
                await context.publish(OrderBilled(event.order_id))
            body(event, context)

        if self.kind.awaited:
            return bill_async
        if self.transport == self.url:
            return bill

        def bill_only(event: OrderPlaced, context: DeliveryContext) -> None:
            execute(context.tx, insert % event.order_id)
            body(event, context)

        return bill_only


@pytest.fixture
async def shop(kind: Kind, near: bool, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    if kind.dialect == "postgresql":
        url = request.getfixturevalue("postgres_url")
    else:
        with sqlite3.connect(place_of(url)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    async with kind.open(url) as source:
        yield Shop(kind, url, url if near else request.getfixturevalue("redis_url"), source)


@nearby
@each
async def test_effects_consequences_and_mark_commit_together(kind: Kind, near: bool, shop: Shop) -> None:
    bus = shop.bus()
    billed: list[str] = []
    told: list[str] = []
    bus.add_subscriber(shop.billing(), OrderPlaced, name="bill", transactional=True)

    @bus.subscriber(OrderBilled)
    async def ledger(event: OrderBilled) -> None:
        billed.append(event.order_id)

    bus.add_handler(lambda event: told.append(event.order_id), OrderBilled, after_commit=True)
    names = sorted(f"o-{n}" for n in range(8))
    async with bus:
        await bus.publish_many([OrderPlaced(name) for name in names])
        await bus.drain()
        stats = await bus.stats()
    assert shop.bills() == names
    assert stats["bill"].backlog == stats["bill"].in_flight == stats["bill"].dead == 0
    if near:
        assert sorted(billed) == sorted(told) == names
    else:
        assert shop.marks() == len(names)


@nearby
@each
async def test_an_error_takes_the_effects_back_and_a_replay_works(kind: Kind, near: bool, shop: Shop) -> None:
    bus = shop.bus()
    broken = True

    def body(event: OrderPlaced, context: DeliveryContext) -> None:
        if broken or context.attempt == 1:
            raise ConnectionError("the bank is closed")

    retry = Retry(attempts=2, delay=0.01)
    bus.add_subscriber(shop.billing(body), OrderPlaced, name="bill", transactional=True, retry=retry)
    bus.add_subscriber(lambda event: None, OrderBilled, name="ledger")
    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
        assert shop.bills() == []
        (letter,) = await bus.dead.list("bill")
        assert letter.attempts == 2
        broken = False
        await bus.dead.replay("bill", ids=[letter.id])
        await bus.drain()
        assert await bus.dead.list("bill") == []
    assert shop.bills() == ["o-1"]


@nearby
@each
async def test_a_redelivery_of_what_is_done_has_no_second_effect(kind: Kind, near: bool, shop: Shop) -> None:
    """FAULTS 21: the effects are committed, and the worker's word of it is lost."""
    bus = shop.bus(lease=0.3)
    runs: list[str] = []
    bus.add_subscriber(
        shop.billing(lambda event, context: runs.append(event.order_id)), OrderPlaced, name="bill", transactional=True
    )
    async with bus:
        if not near:
            lose_settles(bus, 1)
        await bus.publish(OrderPlaced("o-1"))
        async with bus.worker(), asyncio.timeout(20):
            while (await bus.stats())["bill"].backlog + (await bus.stats())["bill"].in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert runs == shop.bills() == ["o-1"]


def lose_settles(bus: Bus, count: int) -> None:
    """Of the next outcomes none reaches the server."""
    transport: Any = bus._life.transport
    settle = transport.settle
    left = [count]

    async def lossy(settlements: Any) -> Any:
        if left[0]:
            left[0] -= 1
            return [Unknown(ConnectionError("the answer was lost")) for _ in settlements]  # type: ignore[arg-type]
        return await settle(settlements)

    transport.settle = lossy


@nearby
@each
async def test_two_subscriptions_and_two_workers_give_one_effect_each(kind: Kind, near: bool, shop: Shop) -> None:
    """FAULTS 22."""
    bus = shop.bus()
    for name in ("one", "two"):
        bus.add_subscriber(shop.billing(), OrderPlaced, name=name, transactional=True)
    async with bus, bus.worker(), bus.worker():
        await bus.publish_many([OrderPlaced(f"o-{n}") for n in range(10)])
        async with asyncio.timeout(30):
            while bus.counters.acked < 20:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
    assert shop.bills() == sorted(f"o-{n}" for n in range(10) for _ in "12")


@pytest.mark.parametrize("near", [False], ids=["redis"])
@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind.dialect == "postgresql"], ids=str)
async def test_of_two_that_run_at_once_one_commits(kind: Kind, near: bool, shop: Shop) -> None:
    """The second is handed back until it is clear what becomes of the first: here it is taken back."""
    bus = shop.bus()
    bus.add_subscriber(shop.billing(), OrderPlaced, name="bill", transactional=True, retry=Retry(attempts=1))
    async with bus:
        envelope = await bus.publish(OrderPlaced("o-1"))
        given = bus._given
        assert given is not None
        await given.prepare("bill")
        with psycopg.connect(shop.url) as first:
            mark = given._marks.mark("postgresql", given._ids["bill"], envelope.id.bytes)
            assert perform(driver_of(first), first, mark) == "new"
            draining = asyncio.create_task(bus.drain())
            while bus.counters.snoozed < 2:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
            assert shop.bills() == []
            first.rollback()
        await draining
    assert shop.bills() == ["o-1"]


@pytest.mark.parametrize("near", [False], ids=["redis"])
@each
async def test_marks_are_deleted_in_time_and_no_sooner(kind: Kind, near: bool, shop: Shop) -> None:
    bus = shop.bus()
    bus.add_subscriber(shop.billing(), OrderPlaced, name="bill", transactional=True)
    async with bus:
        await bus.setup()
        old = "strftime('%s','now') - 604900" if kind.dialect == "sqlite" else "now() - interval '7.001 days'"
        young = "strftime('%s','now') - 604700" if kind.dialect == "sqlite" else "now() - interval '6.999 days'"
        for n, at in enumerate([old] * 1500 + [young]):
            id_ = f"zeroblob({n + 1})" if kind.dialect == "sqlite" else f"'{uuid4()}'"
            if n == 0:
                values = []
            values.append(f"('x', {id_}, {at})")
        shop.run(f'INSERT INTO "{shop.namespace}_inbox" (subscription, id, done_at) VALUES {",".join(values)}')
        assert bus._given is not None
        bus._given._tidied -= 61
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
        assert bus._given._tidying is not None
        await bus._given._tidying
    assert shop.marks() == 2


async def test_what_cannot_fit_is_refused_when_the_worker_is_made() -> None:
    async def awaited(event: OrderPlaced) -> None: ...

    def blocking(event: OrderPlaced) -> None: ...

    for source, fn in ((sessionmaker(), awaited), (async_sessionmaker(), blocking)):
        bus = Bus(transactions=source)
        bus.add_subscriber(fn, OrderPlaced, name="bill", transactional=True)
        with pytest.raises(ConfigError, match="change the one or the other"):
            bus.make_worker()
    with pytest.raises(ConfigError, match="transactions= was given a int"):
        Bus(transactions=3)


@nearby
@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind.type in (Session, AsyncSession)], ids=str)
async def test_a_parameter_annotated_with_the_session_is_given_it(kind: Kind, near: bool, shop: Shop) -> None:
    bus = shop.bus()
    got: list[object] = []

    if kind.awaited:

        @bus.subscriber(OrderPlaced, name="bill", transactional=True)
        async def bill_async(event: OrderPlaced, session: AsyncSession) -> None:
            got.append(session)
    else:

        @bus.subscriber(OrderPlaced, name="bill", transactional=True)
        def bill(event: OrderPlaced, context: DeliveryContext, session: Session) -> None:
            assert session is context.tx
            got.append(session)

    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
    (session,) = got
    assert isinstance(session, kind.type)


@nearby
@pytest.mark.parametrize("kind", [kind for kind in SOURCES if "sqlite" in kind.name or "asyncpg" in kind.name], ids=str)
async def test_replaying_a_success_asks_to_be_forced(kind: Kind, near: bool, shop: Shop) -> None:
    bus = shop.bus()
    bus.add_subscriber(shop.billing(), OrderPlaced, name="bill", transactional=True)
    event_id = uuid4()
    async with bus:
        await bus.publish(OrderPlaced("o-1"), id=event_id)
        await bus.drain()
        marks = bus._given
        assert marks is not None
        assert await marks.done("bill", [event_id, uuid4()]) == {event_id}
        # A delivery of it dies later: here, one that nobody forgot to expire.
        other = uuid4()
        await bus.publish(OrderPlaced("late"), id=other, expires=0.001)
        await asyncio.sleep(0.01)
        await bus.drain()
        (letter,) = await bus.dead.list("bill")
        assert await marks.done("bill", [other]) == set()
        await mark(shop, bus, other)
        with pytest.raises(PostbusError, match="force=True"):
            await bus.dead.replay("bill", [letter.id])
        assert await bus.dead.count("bill") == 1
        assert await bus.dead.replay("bill", [letter.id], force=True) == 1
        assert await marks.done("bill", [other]) == set()


async def mark(shop: Shop, bus: Bus, event_id: UUID) -> None:
    """As if it had been done before it expired."""
    given = bus._given
    assert given is not None
    if not given.settles:
        await given._alone(lambda driver: given._marks.mark(driver.dialect, given._ids["bill"], event_id.bytes))
    elif shop.kind.dialect == "sqlite":
        shop.run(
            f'INSERT INTO "{shop.namespace}_done" (subscription, id, done_at) '
            f"SELECT public, x'{event_id.hex}', 1e10 FROM \"{shop.namespace}_subscription\" WHERE name = 'bill'"
        )
    else:
        shop.run(
            f'INSERT INTO "{shop.namespace}".done (subscription, id, done_at) '
            f"SELECT public, '{event_id}', now() FROM \"{shop.namespace}\".subscription WHERE name = 'bill'"
        )


def test_nobody_else_is_given_a_transaction() -> None:
    bus = Bus()
    with pytest.raises(ConfigError, match="nobody will pass"):
        bus.add_subscriber(lambda event, session: None, OrderPlaced, name="bill")
