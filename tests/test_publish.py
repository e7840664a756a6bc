"""Publishing: handlers first, then stored; nested, transactional, sync; nothing half done."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from postbus import (
    Bus,
    Closed,
    ConfigError,
    Context,
    ForkError,
    InvalidName,
    PublishFailed,
    Publishing,
    RawEvent,
    TooLarge,
    TransportFull,
    around_publish,
    event,
)


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    note: str = ""


@event("stock.item.reserved", key="item")
@dataclass(frozen=True)
class ItemReserved:
    item: str


def sqlite_bus(path: Path, **options: Any) -> Bus:
    return Bus(f"sqlite:///{path}/bus.db", **options)


def taken(bus: Bus) -> list[tuple[str, str]]:
    """Have a subscriber of everything note name and key."""
    seen: list[tuple[str, str]] = []

    @bus.subscriber(">", name="everything")
    async def everything(event: RawEvent) -> None:
        seen.append((event.name, event.key or ""))

    return seen


async def test_handlers_run_before_the_event_is_stored(tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path)
    seen = taken(bus)
    stored_then: list[int] = []

    @bus.on(OrderPlaced)
    async def handler(event: OrderPlaced) -> None:
        stored_then.append((await bus.stats())["everything"].backlog)

    async with bus:
        envelope = await bus.publish(OrderPlaced("o-1"))
        assert stored_then == [0]
        assert (await bus.stats())["everything"].backlog == 1
        await bus.drain()
    assert seen == [("orders.order.placed", "o-1")]
    assert isinstance(envelope.id, UUID)
    assert envelope.id.version == 7
    assert abs(envelope.time - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
async def test_a_failing_handler_reaches_the_publisher_and_nothing_is_stored(url: str, tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path) if url == "sqlite" else Bus(url)
    taken(bus)

    @bus.on(OrderPlaced)
    def refuses(event: OrderPlaced) -> None:
        raise LookupError("sold out")

    async with bus:
        with pytest.raises(LookupError):
            await bus.publish(OrderPlaced("o-1"))
        assert (await bus.stats())["everything"].backlog == 0


async def test_a_nested_publish_is_sent_only_if_the_whole_succeeds() -> None:
    bus = Bus()
    seen = taken(bus)

    @bus.on(OrderPlaced)
    async def reserve(event: OrderPlaced, context: Context) -> None:
        await context.publish(ItemReserved(event.order_id))

    @bus.on(OrderPlaced)
    def check(event: OrderPlaced) -> None:
        if event.note == "bad":
            raise ValueError("bad")

    async with bus:
        with pytest.raises(ValueError, match="bad"):
            await bus.publish(OrderPlaced("o-1", "bad"))
        await bus.publish(OrderPlaced("o-2"))
        await bus.drain()
    assert seen == [("orders.order.placed", "o-2"), ("stock.item.reserved", "o-2")]


async def test_a_caught_nested_failure_takes_back_only_its_own_events() -> None:
    bus = Bus()
    seen = taken(bus)

    @bus.on(OrderPlaced)
    async def reserve(event: OrderPlaced) -> None:
        await asyncio.gather(
            bus.publish(ItemReserved("fine")), bus.publish(ItemReserved("broken")), return_exceptions=True
        )

    @bus.on(ItemReserved)
    async def check(event: ItemReserved) -> None:
        await asyncio.sleep(0)
        if event.item == "broken":
            raise ValueError("broken")

    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
    assert sorted(seen) == [("orders.order.placed", "o-1"), ("stock.item.reserved", "fine")]


async def test_publishes_that_lead_back_to_themselves_are_stopped() -> None:
    bus = Bus()

    @bus.on(OrderPlaced)
    async def again(event: OrderPlaced) -> None:
        await bus.publish(OrderPlaced("again"))

    async with bus:
        with pytest.raises(PublishFailed, match="nested more than"):
            await bus.publish(OrderPlaced("o-1"))


async def test_a_task_that_outlives_its_handler_publishes_on_its_own() -> None:
    bus = Bus()
    seen = taken(bus)
    left: list[asyncio.Task[Any]] = []
    go = asyncio.Event()

    @bus.on(OrderPlaced)
    async def start(event: OrderPlaced) -> None:
        async def later() -> None:
            await go.wait()
            await bus.publish(ItemReserved("late"))

        left.append(asyncio.create_task(later()))

    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        go.set()
        await left[0]
        await bus.drain()
    assert seen == [("orders.order.placed", "o-1"), ("stock.item.reserved", "late")]


async def test_causes_are_carried_along() -> None:
    bus = Bus()
    seen: dict[str, tuple[str | None, str | None]] = {}

    @bus.subscriber(OrderPlaced)
    async def first(event: OrderPlaced, context: Context) -> None:
        await context.publish(ItemReserved("i"), headers={"tenant": "a"})

    @bus.subscriber(ItemReserved)
    async def second(event: ItemReserved, context: Context) -> None:
        seen["second"] = (context.envelope.correlation_id, context.envelope.causation_id)
        assert context.headers["tenant"] == "a"

    async with bus:
        envelope = await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
    assert seen == {"second": (str(envelope.id), str(envelope.id))}


async def test_bad_options_fail_before_any_handler_runs(tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path, max_size=1000)
    ran: list[object] = []
    bus.add_handler(ran.append, OrderPlaced)
    naive = datetime(2030, 1, 1)  # noqa: DTZ001 - naive on purpose
    async with bus:
        with pytest.raises(TooLarge):
            await bus.publish(OrderPlaced("o-1", "x" * 2000))
        with pytest.raises(InvalidName):
            await bus.publish(OrderPlaced("k" * 300))
        with pytest.raises(InvalidName):
            await bus.publish(OrderPlaced("o-1"), headers={"bad name": "x"})
        for wrong in (
            {"delay": -1},
            {"at": naive},
            {"expires": "soon"},
            {"id": "1"},
            {"delay": 1, "at": datetime.now(UTC)},
        ):
            with pytest.raises(ConfigError):
                await bus.publish(OrderPlaced("o-1"), **wrong)  # type: ignore[arg-type]
        assert (await bus.stats()) == {}
    assert ran == []


async def test_the_same_id_is_stored_once(tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path)
    seen = taken(bus)
    one = uuid4()
    async with bus:
        for _ in range(3):
            assert (await bus.publish(OrderPlaced("o-1"), id=one)).id == one
        await bus.drain()
    assert len(seen) == 1
    assert bus.counters.duplicates == 2


async def test_an_event_that_no_subscription_takes_is_accepted_and_counted() -> None:
    bus = Bus()
    async with bus:
        await bus.publish(OrderPlaced("o-1"))
    assert (bus.counters.published, bus.counters.unrouted) == (1, 1)
    strict = Bus(require_subscription=True)
    async with strict:
        with pytest.raises(PublishFailed):
            await strict.publish(OrderPlaced("o-1"))


async def test_a_batch_says_for_each_event_whether_it_was_stored() -> None:
    bus = Bus("memory://?maxsize=3", publish_timeout=0.05)
    taken(bus)
    async with bus:
        await bus.publish_many([OrderPlaced("o-1"), OrderPlaced("o-2"), OrderPlaced("o-3")])
        with pytest.raises(PublishFailed) as caught:
            await bus.publish_many([OrderPlaced("o-4"), ItemReserved("i-1")])
        assert [type(error) for error in caught.value.results] == [TransportFull, TransportFull]


async def test_concurrent_publishes_leave_together_and_answer_apart(tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path, max_size=1000)
    seen = taken(bus)
    async with bus:
        outcomes = await asyncio.gather(
            *(bus.publish(OrderPlaced(f"o-{n}", "x" * 2000 if n == 7 else "")) for n in range(20)),
            return_exceptions=True,
        )
        await bus.drain()
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, TooLarge)] == [7]
    assert {key for _, key in seen} == {f"o-{n}" for n in range(20) if n != 7}


async def test_a_cancelled_publish_changes_nothing_for_its_neighbours(tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path)
    seen = taken(bus)
    async with bus:
        tasks = [asyncio.ensure_future(bus.publish(OrderPlaced(f"o-{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, BaseException)] == [3]
        await bus.drain()
    assert {key for _, key in seen} >= {f"o-{n}" for n in range(10) if n != 3}


async def test_publishing_on_a_closed_bus_says_so() -> None:
    bus = Bus()
    with pytest.raises(Closed, match="async with bus"):
        await bus.publish(OrderPlaced("o-1"))


async def test_a_sync_publish_on_a_loops_thread_says_what_to_call() -> None:
    bus = Bus()
    async with bus:
        with pytest.raises(ConfigError, match=r"await bus\.publish"):
            bus.publish_sync(OrderPlaced("o-1"))


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_the_sync_twin_needs_no_event_loop(url: str, tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path) if url == "sqlite" else Bus(url)
    seen = taken(bus)
    ran_on: list[threading.Thread] = []
    bus.add_handler(lambda _: ran_on.append(threading.current_thread()), OrderPlaced)
    with bus:
        bus.publish_sync(OrderPlaced("o-1"))
        bus.publish_many_sync([OrderPlaced("o-2"), OrderPlaced("o-3")])

    async def drain() -> None:
        async with bus:
            await bus.drain()

    asyncio.run(drain())
    assert [key for _, key in seen] == ["o-1", "o-2", "o-3"]
    assert set(ran_on) == {threading.current_thread()}


def test_many_threads_publish_at_once(tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path)
    seen = taken(bus)

    def publish(place: int) -> None:
        for n in range(50):
            bus.publish_sync(OrderPlaced(f"{place}-{n}"))

    threads = [threading.Thread(target=publish, args=(place,)) for place in range(8)]
    with bus:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def drain() -> None:
        async with bus:
            await bus.drain()

    asyncio.run(drain())
    assert len(set(seen)) == len(seen) == 400


def test_a_forked_child_publishes_on_connections_of_its_own(tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path)
    seen = taken(bus)
    with bus:
        bus.publish_sync(OrderPlaced("parent"))
        for name in ("child-1", "child-2"):
            pid = os.fork()
            if pid == 0:
                try:
                    bus.publish_sync(OrderPlaced(name))
                    os._exit(0)
                finally:
                    os._exit(1)
            assert os.waitpid(pid, 0)[1] == 0

    async def drain() -> None:
        async with bus:
            await bus.drain()

    asyncio.run(drain())
    assert sorted(key for _, key in seen) == ["child-1", "child-2", "parent"]


def test_a_forked_child_that_leaves_its_parents_block_closes_nothing(tmp_path: Path) -> None:
    bus = sqlite_bus(tmp_path)
    in_child = False
    status = 1
    try:
        with bus:
            pid = os.fork()
            in_child = pid == 0
            if not in_child:
                assert os.waitpid(pid, 0)[1] == 0
                bus.publish_sync(OrderPlaced("still open"))
        status = 0
    finally:
        if in_child:
            os._exit(status)


def test_a_bus_in_memory_is_not_shared_with_a_forked_child() -> None:
    bus = Bus()
    with bus:
        pid = os.fork()
        if pid == 0:
            try:
                bus.publish_sync(OrderPlaced("child"))
            except ForkError:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0


async def test_middleware_runs_around_each_publish() -> None:
    steps: list[str] = []

    @around_publish
    def tenant(publishing: Publishing) -> Iterator[None]:
        steps.append("before")
        publishing.headers["tenant"] = "a"
        yield
        steps.append("after")

    bus = Bus(middleware=[tenant])
    bus.add_handler(lambda _: steps.append("handler"), OrderPlaced)
    async with bus:
        envelope = await bus.publish(OrderPlaced("o-1"))
    assert steps == ["before", "handler", "after"]
    assert envelope.headers == {"tenant": "a"}


# -- inside the caller's transaction


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    conn = sqlite3.connect(tmp_path / "bus.db", isolation_level=None)
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("CREATE TABLE orders (id TEXT)")
    yield conn
    conn.close()


async def test_a_publish_within_a_transaction_exists_if_and_only_if_it_commits(
    tmp_path: Path, connection: sqlite3.Connection
) -> None:
    bus = sqlite_bus(tmp_path)
    seen = taken(bus)

    @bus.on(OrderPlaced)
    def note(event: OrderPlaced, context: Context) -> None:
        context.tx_as(sqlite3.Connection).execute("INSERT INTO orders VALUES (?)", (event.order_id,))

    async with bus:
        with pytest.raises(RuntimeError, match="after all"):  # noqa: PT012 - the error ends the transaction
            async with bus.transaction(connection) as tx:
                await bus.publish(OrderPlaced("rolled back"), within=tx)
                raise RuntimeError("after all")
        async with bus.transaction(connection) as tx:
            await bus.publish(OrderPlaced("committed"), within=tx)
        connection.execute("BEGIN")
        await bus.publish(OrderPlaced("by hand"), within=connection)
        connection.execute("COMMIT")
        await bus.drain()
    assert [key for _, key in seen] == ["committed", "by hand"]
    assert [row[0] for row in connection.execute("SELECT id FROM orders")] == ["committed", "by hand"]


async def test_a_savepoint_takes_its_events_and_their_after_commit_handlers_back(
    tmp_path: Path, connection: sqlite3.Connection
) -> None:
    bus = sqlite_bus(tmp_path)
    seen = taken(bus)
    after: list[str] = []

    @bus.on(OrderPlaced, after_commit=True)
    def told(event: OrderPlaced) -> None:
        after.append(event.order_id)
        raise RuntimeError("nobody sees this")

    async with bus:
        async with bus.transaction(connection) as tx:
            await bus.publish(OrderPlaced("kept"), within=tx)
            tx.execute("SAVEPOINT s")
            await bus.publish(OrderPlaced("taken back"), within=tx)
            tx.execute("ROLLBACK TO s")
            assert after == []
        assert after == ["kept"]
        await bus.drain()
    assert [key for _, key in seen] == ["kept"]
    assert bus.counters.after_commit_errors == 1


async def test_connections_that_would_make_it_a_lie_are_refused(tmp_path: Path, connection: sqlite3.Connection) -> None:
    bus = sqlite_bus(tmp_path)
    taken(bus)
    elsewhere = sqlite3.connect(":memory:", isolation_level=None)
    async with bus:
        with pytest.raises(ConfigError, match="autocommit"):
            await bus.publish(OrderPlaced("o-1"), within=connection)
        elsewhere.execute("BEGIN")
        with pytest.raises(ConfigError):
            await bus.publish(OrderPlaced("o-1"), within=elsewhere)
        with pytest.raises(ConfigError):
            await bus.publish(OrderPlaced("o-1"), within=object())
        bus.add_handler(lambda _: None, OrderPlaced, after_commit=True)
        connection.execute("BEGIN")
        with pytest.raises(ConfigError, match=r"bus\.transaction"):
            await bus.publish(OrderPlaced("o-1"), within=connection)
        connection.execute("ROLLBACK")
        assert (await bus.stats())["everything"].backlog == 0
    elsewhere.close()
    async with Bus() as memory:
        with pytest.raises(ConfigError, match="memory"):
            await memory.publish(OrderPlaced("o-1"), within=connection)


def test_a_sync_transaction_works_the_same(tmp_path: Path, connection: sqlite3.Connection) -> None:
    bus = sqlite_bus(tmp_path)
    after: list[str] = []
    bus.add_handler(lambda event: after.append(event.order_id), OrderPlaced, after_commit=True)
    with bus:
        with bus.transaction(connection) as tx:
            bus.publish_sync(OrderPlaced("o-1"), within=tx)
            assert after == []
        assert after == ["o-1"]
        with bus.transaction(connection), pytest.raises(ConfigError, match="in a transaction already"):
            bus.transaction(connection).__enter__()


async def test_a_transaction_that_has_ended_takes_nothing_more(tmp_path: Path, connection: sqlite3.Connection) -> None:
    bus = sqlite_bus(tmp_path)
    seen = taken(bus)
    ran: list[str] = []
    bus.add_handler(lambda event: ran.append(event.order_id), OrderPlaced)
    async with bus:
        unopened = bus.transaction(connection)
        async with bus.transaction(connection) as ended:
            await bus.publish(OrderPlaced("inside"), within=ended)
        for tx in (unopened, ended):
            with pytest.raises(ConfigError, match="not open"):
                await bus.publish(OrderPlaced("outside"), within=tx)
            assert not connection.in_transaction
        await bus.drain()
    assert ran == ["inside"]
    assert [key for _, key in seen] == ["inside"]
