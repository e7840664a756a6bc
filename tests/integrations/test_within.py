"""Whatever connection or session is given as `within=`: the event exists if and only if its transaction commits."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from desks import ALL, CONNECTIONS, RAW, SESSIONS, Desk, Kind, place_of

from postbus import Bus, ConfigError, Context, PublishFailed, event


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@dataclass
class Shop:
    """A bus, the database that it shares with a shop, and what its subscriber got."""

    url: str
    bus: Bus
    table: str
    got: list[str]

    def insert(self, name: str) -> str:
        return f"INSERT INTO {self.table} (name) VALUES ('{name}')"

    async def delivered(self) -> list[str]:
        await self.bus.drain()
        return sorted(self.got)

    def rows(self) -> list[str]:
        return [row[0] for row in run(self.url, f"SELECT name FROM {self.table} ORDER BY name")]


def run(url: str, sql: str) -> list[Any]:
    """On a connection of our own."""
    connection: Any = sqlite3.connect(place_of(url)) if url.startswith("sqlite") else psycopg.connect(url)
    try:
        found = connection.execute(sql)
        rows = found.fetchall() if found.description else []
        connection.commit()
        return list(rows)
    finally:
        connection.close()


@pytest.fixture
def url(kind: Kind, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if kind.dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'shop.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def shop(url: str) -> AsyncIterator[Shop]:
    unique = f"t{uuid4().hex[:12]}"
    bus = Bus(url, namespace=unique)
    got: list[str] = []

    @bus.subscriber(OrderPlaced, name="receipts")
    async def receipts(event: OrderPlaced) -> None:
        got.append(event.order_id)

    async with bus:
        run(url, f"CREATE TABLE {unique}_orders (name text)")
        yield Shop(url, bus, f"{unique}_orders", got)


each = pytest.mark.parametrize("kind", ALL, ids=str)


@each
async def test_an_event_exists_if_the_transaction_commits(kind: Kind, shop: Shop) -> None:
    async with kind.open(shop.url) as desk:
        await desk.write(shop.insert("kept"))
        await shop.bus.publish(OrderPlaced("kept"), within=desk.given)
        assert await shop.delivered() == []
        await desk.commit()
        await desk.write(shop.insert("gone"))
        await shop.bus.publish(OrderPlaced("gone"), within=desk.given)
        await desk.rollback()
    assert await shop.delivered() == shop.rows() == ["kept"]


@each
async def test_the_publish_may_come_first(kind: Kind, shop: Shop) -> None:
    """What begins a transaction by itself does so for an event as well."""
    async with kind.open(shop.url) as desk:
        if kind.name.startswith("asyncpg"):
            await desk.write("SELECT 1")
        await shop.bus.publish(OrderPlaced("kept"), within=desk.given)
        await desk.write(shop.insert("kept"))
        await desk.commit()
    assert await shop.delivered() == shop.rows() == ["kept"]


@each
async def test_a_savepoint_takes_back_what_was_published_in_it(kind: Kind, shop: Shop) -> None:
    async with kind.open(shop.url) as desk:
        await desk.write(shop.insert("before"))
        await shop.bus.publish(OrderPlaced("before"), within=desk.given)
        await take_back(shop, desk)
        async with desk.savepoint():
            await desk.write(shop.insert("nested"))
            await shop.bus.publish(OrderPlaced("nested"), within=desk.given)
        await desk.commit()
    assert await shop.delivered() == shop.rows() == ["before", "nested"]


@each
async def test_an_error_in_a_handler_reaches_the_publisher_and_nothing_is_kept(kind: Kind, shop: Shop) -> None:
    @shop.bus.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        assert context.tx is desk.given
        await desk.write(shop.insert(f"reserved {event.order_id}"))
        if event.order_id == "bad":
            raise LookupError("out of stock")

    async with kind.open(shop.url) as desk:
        await desk.write(shop.insert("order"))
        with pytest.raises(LookupError, match="out of stock"):
            await shop.bus.publish(OrderPlaced("bad"), within=desk.given)
        await desk.rollback()
        await desk.write(shop.insert("order"))
        await shop.bus.publish(OrderPlaced("good"), within=desk.given)
        await desk.commit()
    assert await shop.delivered() == ["good"]
    assert shop.rows() == ["order", "reserved good"]


@each
async def test_without_a_transaction_nothing_is_published(kind: Kind, shop: Shop) -> None:
    ran: list[str] = []
    shop.bus.add_handler(lambda event: ran.append(event.order_id), OrderPlaced)
    assert kind.careless is not None
    async with kind.careless(shop.url) as desk:
        with pytest.raises(ConfigError, match="autocommit"):
            await shop.bus.publish(OrderPlaced("surprise"), within=desk.given)
    assert await shop.delivered() == []
    assert ran == [], "nor did a handler run whose writes would have been committed one by one"


@each
async def test_another_database_is_refused(kind: Kind, shop: Shop, tmp_path: Path) -> None:
    if kind.dialect == "sqlite":
        elsewhere = f"sqlite:///{tmp_path / 'other.db'}"
    else:
        elsewhere = shop.url.rpartition("/")[0] + "/template1"
    async with kind.open(elsewhere) as desk:
        await desk.write("SELECT 1")
        with pytest.raises(ConfigError, match="is not to"):
            await shop.bus.publish(OrderPlaced("lost"), within=desk.given)
        await desk.rollback()
    assert await shop.delivered() == []


@each
async def test_an_id_is_stored_once(kind: Kind, shop: Shop) -> None:
    event_id = uuid4()
    await shop.bus.publish(OrderPlaced("once"), id=event_id)
    async with kind.open(shop.url) as desk:
        await desk.write(shop.insert("twice"))
        await shop.bus.publish(OrderPlaced("once"), id=event_id, within=desk.given)
        await shop.bus.publish_many(
            [OrderPlaced("a"), OrderPlaced("b")], within=desk.given, headers={"sent-by": "a test"}
        )
        await desk.commit()
    assert await shop.delivered() == ["a", "b", "once"]


# -- after the commit


@pytest.mark.parametrize("kind", SESSIONS, ids=str)
async def test_after_commit_handlers_run_when_the_session_has_committed(kind: Kind, shop: Shop) -> None:
    told: list[tuple[str, list[str]]] = []

    @shop.bus.on(OrderPlaced, after_commit=True)
    def tell(event: OrderPlaced, context: Context) -> None:
        assert context.tx is None
        told.append((event.order_id, shop.rows()))

    async with kind.open(shop.url) as desk:
        await publish_in_parts(shop, desk)
        assert told == [], "releasing a savepoint is no commit"
        await desk.commit()
        assert sorted(told) == [("before", ["before", "nested"]), ("nested", ["before", "nested"])]
        told.clear()
        await desk.write(shop.insert("gone"))
        await shop.bus.publish(OrderPlaced("gone"), within=desk.given)
        await desk.rollback()
        await desk.write(shop.insert("unrelated"))
        await desk.commit()
    assert told == []
    assert await shop.delivered() == ["before", "nested"]


async def take_back(shop: Shop, desk: Desk) -> None:
    """Write and publish inside a savepoint that is rolled back."""
    with contextlib.suppress(ZeroDivisionError):
        async with desk.savepoint():
            await desk.write(shop.insert("taken back"))
            await shop.bus.publish(OrderPlaced("taken back"), within=desk.given)
            raise ZeroDivisionError


async def publish_in_parts(shop: Shop, desk: Desk) -> None:
    """Before, inside a savepoint that is rolled back, and inside one that is not."""
    await desk.write(shop.insert("before"))
    await shop.bus.publish(OrderPlaced("before"), within=desk.given)
    await take_back(shop, desk)
    async with desk.savepoint():
        await desk.write(shop.insert("nested"))
        await shop.bus.publish(OrderPlaced("nested"), within=desk.given)


@pytest.mark.parametrize("kind", [kind for kind in SESSIONS if not kind.sync], ids=str)
async def test_an_async_session_awaits_after_commit_handlers(kind: Kind, shop: Shop) -> None:
    told: list[str] = []

    @shop.bus.on(OrderPlaced, after_commit=True)
    async def tell(event: OrderPlaced) -> None:
        await asyncio.sleep(0)
        told.append(event.order_id)
        if event.order_id == "first":  # in the same session, which is free again
            await shop.bus.publish(OrderPlaced("second"), within=desk.given)
            await desk.commit()

    async with kind.open(shop.url) as desk:
        await shop.bus.publish(OrderPlaced("first"), within=desk.given)
        await desk.commit()
    assert told == ["first", "second"]
    assert await shop.delivered() == ["first", "second"]


@pytest.mark.parametrize("kind", [kind for kind in SESSIONS if kind.sync], ids=str)
async def test_what_a_plain_session_could_not_await_is_refused(kind: Kind, shop: Shop) -> None:
    @shop.bus.on(OrderPlaced, after_commit=True)
    async def tell(event: OrderPlaced) -> None:
        raise AssertionError

    async with kind.open(shop.url) as desk:
        with pytest.raises(ConfigError, match="AsyncSession"):
            await shop.bus.publish(OrderPlaced("o-1"), within=desk.given)


@pytest.mark.parametrize("kind", [*RAW, *CONNECTIONS], ids=str)
async def test_after_commit_handlers_ask_for_a_transaction_that_tells(kind: Kind, shop: Shop) -> None:
    told: list[str] = []

    @shop.bus.on(OrderPlaced, after_commit=True)
    async def tell(event: OrderPlaced) -> None:
        told.append(event.order_id)

    async with kind.open(shop.url) as desk:
        await desk.write("SELECT 1")
        with pytest.raises(ConfigError, match=r"bus\.transaction"):
            await shop.bus.publish(OrderPlaced("raw"), within=desk.given)
        await desk.rollback()
        async with shop.bus.transaction(desk.given) as tx:
            wrapped = desk.given
            desk.given = tx
            await publish_in_parts(shop, Wrapped(desk, wrapped))
            assert told == []
        assert sorted(told) == ["before", "nested"]
        told.clear()
        with contextlib.suppress(ZeroDivisionError):
            async with shop.bus.transaction(wrapped) as tx:
                await shop.bus.publish(OrderPlaced("gone"), within=tx)
                raise ZeroDivisionError
        with pytest.raises(ConfigError, match="not open"):
            await shop.bus.publish(OrderPlaced("late"), within=tx)
    assert told == []
    assert await shop.delivered() == shop.rows() == ["before", "nested"]


class Wrapped(Desk):
    """The same desk, publishing within `bus.transaction(...)` and writing on the connection itself."""

    def __init__(self, desk: Desk, connection: Any) -> None:
        self._inner = type(desk)(connection)  # type: ignore[call-arg]
        self.given = desk.given

    async def write(self, sql: str) -> None:
        await self._inner.write(sql)

    def savepoint(self) -> Any:
        return self._inner.savepoint()


# -- on the caller's thread


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind.sync], ids=str)
async def test_sync_callers_publish_on_their_own_thread(kind: Kind, shop: Shop) -> None:
    told: list[str] = []
    if kind in SESSIONS:
        shop.bus.add_handler(lambda event: told.append(event.order_id), OrderPlaced, after_commit=True)

    async def caller() -> None:
        async with kind.open(shop.url) as desk:
            await desk.write(shop.insert("kept"))
            publish(desk, "kept")
            await desk.commit()
            publish(desk, "gone")
            await desk.rollback()

    def publish(desk: Desk, name: str) -> None:
        shop.bus.publish_sync(OrderPlaced(name), within=desk.given)

    await asyncio.to_thread(drive, caller())
    assert told == (["kept"] if kind in SESSIONS else [])
    assert await shop.delivered() == shop.rows() == ["kept"]


def drive(work: Any) -> None:
    """Run what awaits nothing that is not ready, on a thread with no event loop."""
    try:
        while True:
            work.send(None)
    except StopIteration:
        return


@pytest.mark.parametrize("kind", [kind for kind in ALL if not kind.sync], ids=str)
async def test_what_belongs_to_an_event_loop_is_refused_by_sync_publishes(kind: Kind, shop: Shop) -> None:
    async with kind.open(shop.url) as desk:
        with pytest.raises(ConfigError, match=r"await bus\.publish"):
            await asyncio.to_thread(shop.bus.publish_sync, OrderPlaced("o-1"), within=desk.given)
    assert await shop.delivered() == []


@pytest.mark.parametrize("made", [False, True], ids=["no tables", "nothing declared"])
def test_a_bus_that_opens_inside_a_transaction_that_holds_the_file_says_what_to_do(tmp_path: Path, made: bool) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}?busy_timeout=0.2"
    if made:
        with Bus(url):
            pass
    bus = Bus(url)
    bus.add_subscriber(print, OrderPlaced, name="receipts")
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(PublishFailed, match=r"bus\.ensure_open\(\)"):
            bus.publish_sync(OrderPlaced("o-1"), within=connection)
        connection.execute("ROLLBACK")
        with bus:
            connection.execute("BEGIN IMMEDIATE")
            bus.publish_sync(OrderPlaced("o-1"), within=connection)
            connection.execute("COMMIT")
    assert bus.counters.published == 1
