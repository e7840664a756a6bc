"""A bus with an outbox: its publishes wait in a database, and reach the transport once, in order, and however late."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from postbus import Bus, ConfigError, DeliveryContext, PublishFailed, Retry, TransportBroken, TransportError, event
from postbus.hold import OUTBOX
from postbus.observe import Published
from postbus.relay import Relay
from postbus.transport import Append, Outgoing
from servers import Server

WITHIN = 20.0


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    number: int = 0


@event("orders.order.forgotten")
@dataclass(frozen=True)
class OrderForgotten:
    order_id: str


MakeBus = Callable[..., Bus]


@pytest.fixture
def make(tmp_path: Path) -> MakeBus:
    """A bus from one file to another; the same files and namespace at every call."""
    namespace = f"t{uuid4().hex[:12]}"

    def make(
        url: str = f"sqlite:///{tmp_path}/target.db", outbox: str = f"sqlite:///{tmp_path}/shop.db", **options: Any
    ) -> Bus:
        return Bus(url, outbox=outbox, **{"namespace": namespace, "lease": 0.6, **options})

    return make


@pytest.fixture(params=["sqlite to sqlite", "sqlite to redis", "postgres to redis", "sqlite to postgres"])
def road(request: pytest.FixtureRequest, make: MakeBus, tmp_path: Path) -> MakeBus:
    """From each database that can be an outbox to each transport."""
    outbox, _, target = request.param.partition(" to ")
    url = f"sqlite:///{tmp_path}/target.db" if target == "sqlite" else request.getfixturevalue(f"{target}_url")
    place = f"sqlite:///{tmp_path}/shop.db" if outbox == "sqlite" else request.getfixturevalue(f"{outbox}_url")
    return lambda **options: make(url, place, **options)


@asynccontextmanager
async def relaying(bus: Bus, **settings: Any) -> AsyncIterator[Relay]:
    relay = bus.make_relay(**settings)
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


async def until(true: Callable[[], Any], what: str, within: float = WITHIN) -> None:
    """Wait until this, or what it awaits, is true."""
    end = time.monotonic() + within
    while True:
        found = true()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < end, f"not within {within:g} s: {what}"
        await asyncio.sleep(0.01)


async def relayed(bus: Bus) -> None:
    assert bus.outbox is not None
    outbox = bus.outbox

    async def empty() -> bool:
        return (await outbox.stats()).pending == 0

    await until(empty, "the outbox is empty")


# -- the road


async def test_what_is_published_waits_in_the_outbox_and_reaches_each_subscriber_once_and_in_order(
    road: MakeBus,
) -> None:
    bus, seen = road(), []

    @bus.subscriber(OrderPlaced, ordered=True)
    async def note(placed: OrderPlaced) -> None:
        seen.append((placed.order_id, placed.number))

    async with bus:
        assert bus.outbox is not None
        await bus.publish_many([OrderPlaced(f"o-{n % 7}", n) for n in range(300)])
        for n in range(300, 330):
            await bus.publish(OrderPlaced(f"o-{n % 7}", n))
        assert (await bus.outbox.stats()).pending == 330
        assert (await bus.stats())["note"].backlog == 0
        await bus.drain()
        stands = await bus.outbox.stats()
    assert (stands.pending, stands.oldest_age, stands.dead) == (0, None, 0)
    assert len(seen) == 330
    for key in {key for key, _ in seen}:
        numbers = [number for one, number in seen if one == key]
        assert numbers == sorted(set(numbers))
    assert bus.counters.relayed == 330


async def test_the_envelope_arrives_as_it_was_published(road: MakeBus) -> None:
    bus, met, chosen = road(), [], uuid4()

    @bus.subscriber(OrderPlaced)
    async def meet(placed: OrderPlaced, context: DeliveryContext) -> None:
        met.append((placed, context.envelope))

    async with bus:
        sent = await bus.publish(
            OrderPlaced("o-1", 7), key="k", id=chosen, headers={"x": "y"}, expires=timedelta(hours=1)
        )
        await bus.drain()
    assert met == [(OrderPlaced("o-1", 7), sent)]
    assert sent.id == chosen


async def test_large_events_are_relayed_a_few_at_a_time(make: MakeBus) -> None:
    bus, sizes = make(), []
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="all")
    async with bus:
        append = bus.transport.append

        async def measured(items: Sequence[Outgoing]) -> Sequence[Append]:
            sizes.append(sum(len(item.envelope.body) for item in items))
            return await append(items)

        bus.transport.append = measured  # type: ignore[method-assign]
        for n in range(100):
            await bus.publish(OrderPlaced("x" * 500_000, n), key=f"k{n}")
        async with relaying(bus):
            await relayed(bus)
        assert (await bus.stats())["all"].backlog == 100
    assert max(sizes[1:]) < 9_000_000, "the first ones show how large they are"
    assert bus.counters.relay_errors == 0


async def test_an_id_that_was_published_twice_is_relayed_once(road: MakeBus) -> None:
    bus, chosen = road(), uuid4()
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="all")
    async with bus, relaying(bus):
        await bus.publish(OrderPlaced("o-1"), id=chosen)
        await relayed(bus)
        await bus.publish(OrderPlaced("o-1"), id=chosen)
        await relayed(bus)
        assert (await bus.stats())["all"].backlog == 1
    assert bus.counters.duplicates == 1


async def test_a_delay_goes_on_in_the_transport_and_holds_up_nothing_in_the_outbox(road: MakeBus) -> None:
    bus, seen = road(), []
    bus.add_subscriber(lambda placed: seen.append((placed.number, time.monotonic())), OrderPlaced, name="all")
    async with bus, bus.worker():
        began = time.monotonic()
        await bus.publish(OrderPlaced("o-1", 1), delay=1.0)
        await bus.publish(OrderPlaced("o-1", 2), at=datetime.now(UTC) + timedelta(seconds=0.8))
        await bus.publish(OrderPlaced("o-1", 3))
        await relayed(bus)
        assert (await bus.stats())["all"].scheduled == 2
        await until(lambda: len(seen) == 3, "all are handled")
    assert [number for number, _ in seen] == [3, 2, 1]
    assert seen[2][1] - began >= 1.0
    assert seen[1][1] - began >= 0.79


async def test_a_delay_that_ended_in_the_outbox_is_over(make: MakeBus) -> None:
    bus, seen = make(), []
    bus.add_subscriber(lambda placed: seen.append(placed.number), OrderPlaced, name="all")
    async with bus:
        assert bus.outbox is not None
        await bus.outbox.pause()
        await bus.publish(OrderPlaced("o-1", 1), delay=0.2)
        await asyncio.sleep(0.25)
        await bus.outbox.resume()
        began = time.monotonic()
        await bus.drain()
    assert seen == [1]
    assert time.monotonic() - began < 5


async def test_handlers_run_at_the_publish_and_not_at_the_relay(make: MakeBus) -> None:
    bus, ran, facts = make(), [], []
    bus.on(OrderPlaced)(lambda placed: ran.append("handler"))
    bus.on(OrderPlaced, after_commit=True)(lambda placed: ran.append("after"))
    bus.add_subscriber(lambda placed: ran.append("subscriber"), OrderPlaced, name="all")
    bus.observe(facts.append)
    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        assert ran == ["handler", "after"]
        await bus.drain()
    assert ran == ["handler", "after", "subscriber"]
    assert [fact.routes for fact in facts if isinstance(fact, Published)] == [None], "who takes it is not known yet"


async def test_what_a_subscriber_publishes_goes_through_the_outbox_too(make: MakeBus) -> None:
    bus, seen = make(), []

    @bus.subscriber(OrderPlaced)
    async def follow(placed: OrderPlaced, context: DeliveryContext) -> None:
        await context.publish(OrderForgotten(placed.order_id))

    @bus.subscriber(OrderForgotten)
    async def note(forgotten: OrderForgotten, context: DeliveryContext) -> None:
        seen.append((forgotten.order_id, context.envelope.causation_id))

    async with bus:
        sent = await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
    assert seen == [("o-1", str(sent.id))]
    assert bus.counters.relayed == 2


# -- in a transaction of the outbox's database


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, make: MakeBus, tmp_path: Path) -> Iterator[tuple[Bus, Any]]:
    """A bus with an outbox, and a connection to its database."""
    connection: Any
    if request.param == "sqlite":
        connection = sqlite3.connect(tmp_path / "shop.db", isolation_level="DEFERRED", timeout=5)
        bus = make()
    else:
        url = request.getfixturevalue("postgres_url")
        connection, bus = psycopg.connect(url), make(outbox=url)
    with closing(connection):
        yield bus, connection


async def test_an_event_is_relayed_if_its_transaction_commits_and_only_then(shop: tuple[Bus, Any]) -> None:
    bus, connection = shop
    seen: list[int] = []
    bus.add_subscriber(lambda placed: seen.append(placed.number), OrderPlaced, name="all")
    async with bus:
        await bus.publish(OrderPlaced("o-1", 1), within=connection)
        connection.rollback()
        await bus.publish(OrderPlaced("o-1", 2), within=connection)
        connection.execute("SAVEPOINT here")
        await bus.publish(OrderPlaced("o-1", 3), within=connection)
        connection.execute("ROLLBACK TO SAVEPOINT here")
        connection.commit()
        await bus.drain()
    assert seen == [2]


async def test_after_commit_handlers_wait_for_the_commit_of_the_outboxs_database(shop: tuple[Bus, Any]) -> None:
    bus, connection = shop
    ran: list[int] = []
    bus.on(OrderPlaced, after_commit=True)(lambda placed: ran.append(placed.number))
    async with bus:
        with pytest.raises(ZeroDivisionError):
            await spoiled(bus, connection)
        with bus.transaction(connection) as tx:
            await bus.publish(OrderPlaced("o-1", 2), within=tx)
            assert ran == []
        assert ran == [2]


async def spoiled(bus: Bus, connection: Any) -> None:
    """Publish in a transaction that something goes wrong in."""
    with bus.transaction(connection) as tx:
        await bus.publish(OrderPlaced("o-1", 1), within=tx)
        raise ZeroDivisionError


async def test_a_transaction_that_commits_late_is_never_skipped(make: MakeBus, postgres_url: str) -> None:
    bus = make(outbox=postgres_url)
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="all")
    async with bus, relaying(bus, batch=5):
        with psycopg.connect(postgres_url) as slow:
            await bus.publish(OrderPlaced("slow", 0), within=slow)
            for n in range(1, 41):
                await bus.publish(OrderPlaced("quick", n))
            await until(lambda: bus.counters.relayed == 40, "the others are relayed")
            slow.commit()
        await until(lambda: bus.counters.relayed == 41, "the late one is relayed")
        assert (await bus.stats())["all"].backlog == 41


async def test_a_connection_to_the_transports_own_database_is_refused(
    make: MakeBus, postgres_url: str, tmp_path: Path
) -> None:
    bus = make(url=postgres_url)
    async with bus:
        with psycopg.connect(postgres_url) as connection, pytest.raises(ConfigError, match="cannot publish within"):
            await bus.publish(OrderPlaced("o-1"), within=connection)


# -- several relays


async def test_of_several_relays_one_works_and_the_next_takes_over_at_once(make: MakeBus) -> None:
    bus = make(lease=30)
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="all")
    async with bus:
        assert bus.outbox is not None
        first, second = bus.make_relay(), bus.make_relay()
        await first.start()
        await until(lambda: first.leads, "the first leads")
        await second.start()
        await until(lambda: len(second.info().owner) > 0 and not second.leads, "the second stands by")
        await bus.publish(OrderPlaced("o-1"))
        await relayed(bus)
        assert [relay.owner for relay in (await bus.outbox.stats()).relays] == [first.owner, second.owner]
        await first.stop()
        began = time.monotonic()
        await bus.publish(OrderPlaced("o-2"))
        await relayed(bus)
        assert time.monotonic() - began < 10, "not only when a lease has ended"
        assert second.leads
        await second.stop()
        assert (await bus.outbox.stats()).relays == ()
        assert (await bus.stats())["all"].backlog == 2


async def test_relays_that_all_believe_to_lead_break_no_order_and_store_nothing_twice(road: MakeBus) -> None:
    """Which relay works is a matter of thrift: what several do at once is harmless."""
    bus, seen = road(), []

    @bus.subscriber(OrderPlaced, ordered=True)
    async def note(placed: OrderPlaced) -> None:
        seen.append((placed.order_id, placed.number))

    async with bus:
        relays = [bus.make_relay(batch=batch) for batch in (3, 7, 20)]
        for relay in relays:
            relay._take_turn = lambda *, mine, relay=relay: _lead(relay)  # type: ignore[method-assign, misc]
            await relay.start()
        for n in range(200):
            await bus.publish(OrderPlaced(f"o-{n % 5}", n))
        await relayed(bus)
        for relay in relays:
            await relay.stop()
        await bus.drain()
    assert len(seen) == 200
    for key in {key for key, _ in seen}:
        numbers = [number for one, number in seen if one == key]
        assert numbers == sorted(set(numbers))


def _lead(relay: Relay) -> None:
    relay.leads = True
    relay._turn.set()


async def test_a_relay_that_stops_under_load_leaves_everything_to_the_next(make: MakeBus) -> None:
    bus, total = make(), 2000
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="all")
    async with bus:
        await bus.publish_many([OrderPlaced(f"o-{n}", n) for n in range(total)])
        for _ in range(5):
            async with relaying(bus, batch=50), asyncio.timeout(WITHIN):
                before = bus.counters.relayed
                while bus.counters.relayed == before:  # noqa: ASYNC110 - stopped at its first batch, not after the last
                    await asyncio.sleep(0)
        async with relaying(bus):
            await relayed(bus)
        assert (await bus.stats())["all"].backlog == total
        assert bus.counters.relay_duplicates == 0, "what was stored is forgotten before a relay ends"


async def test_a_worker_relays_beside_its_subscribers_unless_told_not_to(make: MakeBus) -> None:
    bus, seen = make(), []
    bus.add_subscriber(lambda placed: seen.append(placed.number), OrderPlaced, name="all")
    async with bus.worker(relay=False):
        assert bus.outbox is not None
        await bus.publish(OrderPlaced("o-1", 1))
        await asyncio.sleep(0.2)
        assert (await bus.outbox.stats()).pending == 1
    async with bus.worker():
        await until(lambda: seen == [1], "the worker's relay carried it")


# -- outages


async def test_publishes_are_accepted_while_the_transport_is_away(
    make: MakeBus, redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.stop()
    bus = make(redis_server.url)
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="all")
    async with bus, relaying(bus) as relay:
        assert bus.outbox is not None
        assert "cannot be reached" in caplog.text
        for n in range(20):
            await bus.publish(OrderPlaced(f"o-{n}", n))
        await until(lambda: relay.trouble != "", "the relay knows")
        with pytest.raises(TransportError):
            await bus.stats()
        health = await bus.health()
        assert not health.connected
        stands = await bus.outbox.stats()
        assert (stands.pending, stands.dead) == (20, 0)
        assert [bool(one.trouble) for one in stands.relays] in ([True], [False])  # it says so at its next beat
        redis_server.start()
        await relayed(bus)
        await until(lambda: relay.trouble == "", "the trouble is over")
        assert (await bus.stats())["all"].backlog == 20, "declared before anything was relayed"
        health = await bus.health()
        assert health.connected
        assert health.outbox is not None


async def test_an_outage_while_events_flow_loses_none_and_doubles_none(make: MakeBus, redis_server: Server) -> None:
    bus, seen = make(redis_server.url, publish_timeout=1), []

    @bus.subscriber(OrderPlaced, ordered=True)
    async def note(placed: OrderPlaced) -> None:
        seen.append((placed.order_id, placed.number))

    async with bus:
        async with relaying(bus, batch=20):
            for n in range(600):
                await bus.publish(OrderPlaced(f"o-{n % 9}", n))
                if n == 100:
                    redis_server.kill()
                if n == 300:
                    redis_server.start()
                if n == 400:
                    redis_server.pause()
                if n == 500:
                    redis_server.resume()
            await relayed(bus)
        await bus.drain()
    assert len(seen) == 600
    for key in {key for key, _ in seen}:
        numbers = [number for one, number in seen if one == key]
        assert numbers == sorted(set(numbers))


async def test_a_bus_does_not_open_without_its_outbox(make: MakeBus, tmp_path: Path) -> None:
    bus = make(outbox=f"sqlite:///{tmp_path}/nowhere/shop.db")
    with pytest.raises(ConfigError, match="does not exist"):
        async with bus:
            pass


async def test_a_publish_fails_when_the_outbox_is_held_by_somebody(make: MakeBus, tmp_path: Path) -> None:
    bus = make(publish_timeout=0.2)
    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        with closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(PublishFailed, match="busy"):
                await bus.publish(OrderPlaced("o-2"))


# -- what no transport takes


async def test_an_event_that_nobody_takes_is_a_dead_letter_of_the_outbox_that_can_be_replayed(road: MakeBus) -> None:
    bus, seen = road(require_subscription=True), []
    bus.add_subscriber(lambda placed: seen.append(placed.number), OrderPlaced, name="all")
    async with bus, relaying(bus):
        assert bus.outbox is not None
        await bus.publish(OrderForgotten("o-1"))
        await bus.publish(OrderPlaced("o-1", 1))
        await relayed(bus)
        (letter,) = await bus.outbox.dead()
        assert letter.envelope.name == "orders.order.forgotten"
        assert "no subscription takes" in letter.reason
        assert (await bus.outbox.stats()).dead == 1
        assert [one.id for one in await bus.dead.list(OUTBOX)] == [letter.id]
        assert await bus.dead.list() == []
        assert await bus.dead.get(letter.id) is not None
        bus.add_subscriber(lambda forgotten: seen.append(2), OrderForgotten, name="late")
        await bus.stats()  # declares it
        assert await bus.outbox.replay() == 1
        await relayed(bus)
        await bus.drain()
        assert sorted(seen) == [1, 2]
        assert bus.counters.relay_refused == 1


async def test_a_dead_letter_of_the_outbox_can_be_discarded(make: MakeBus) -> None:
    bus = make(require_subscription=True)
    async with bus, relaying(bus):
        assert bus.outbox is not None
        for n in range(3):
            await bus.publish(OrderForgotten(f"o-{n}"))
        await relayed(bus)
        first, *_ = await bus.outbox.dead()
        assert await bus.outbox.discard([first.id]) == 1
        assert await bus.outbox.discard() == 2
        assert (await bus.outbox.stats()).dead == 0
        assert await bus.outbox.list() == []


async def test_a_paused_outbox_keeps_what_is_published(road: MakeBus) -> None:
    bus = road()
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="all")
    async with bus, relaying(bus):
        assert bus.outbox is not None
        await bus.subscriptions.pause(OUTBOX)
        await bus.publish(OrderPlaced("o-1"))
        await asyncio.sleep(0.3)
        stands = await bus.outbox.stats()
        assert (stands.pending, stands.paused) == (1, True)
        assert [stored.envelope.key for stored in await bus.outbox.list()] == ["o-1"]
        await bus.outbox.resume()
        await relayed(bus)


# -- sync callers, forks, and what cannot be


def test_sync_callers_publish_through_the_outbox(make: MakeBus, tmp_path: Path) -> None:
    bus, seen = make(), []
    bus.add_subscriber(lambda placed: seen.append(placed.number), OrderPlaced, name="all", ordered=True)
    with bus:
        bus.publish_sync(OrderPlaced("o-1", 1))
        bus.publish_many_sync([OrderPlaced("o-1", 2), OrderPlaced("o-1", 3)])
        with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
            connection.execute("BEGIN IMMEDIATE")
            bus.publish_sync(OrderPlaced("o-1", 4), within=connection)
            connection.commit()
    asyncio.run(_drained(bus))
    assert seen == [1, 2, 3, 4]


async def _drained(bus: Bus) -> None:
    async with bus:
        await bus.drain()


def test_a_forked_publisher_has_an_outbox_of_its_own(make: MakeBus) -> None:
    bus, seen = make(), []
    bus.add_subscriber(lambda placed: seen.append(placed.number), OrderPlaced, name="all")
    bus.publish_sync(OrderPlaced("o-1", 1))  # opens it, as a web server may before it forks
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            bus.publish_sync(OrderPlaced("o-1", 2))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    bus.publish_sync(OrderPlaced("o-1", 3))
    asyncio.run(_drained(another(make, seen)))
    assert sorted(seen) == [1, 2, 3]


def another(make: MakeBus, seen: list[int]) -> Bus:
    """The lazily opened one belongs to its loop thread."""
    bus = make()
    bus.add_subscriber(lambda placed: seen.append(placed.number), OrderPlaced, name="all")
    return bus


@pytest.mark.parametrize(
    ("url", "outbox", "words"),
    [
        ("memory://", "sqlite:///shop.db", "live in one process"),
        ("sqlite:///target.db", "redis://localhost", "expected postgresql:// or sqlite:///"),
        ("sqlite:///target.db", "memory://", "expected postgresql:// or sqlite:///"),
        ("sqlite:///shop.db", "sqlite:///shop.db", "the transport's own database"),
        ("sqlite:///target.db", "mysql://localhost/shop", "unknown scheme"),
    ],
)
def test_an_outbox_that_would_carry_nothing_is_refused_at_once(url: str, outbox: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Bus(url, outbox=outbox)


def test_an_outboxs_password_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        Bus("memory://", outbox="postgresql://me:canary@localhost/shop")
    assert "canary" not in str(caught.value)


def test_a_bus_without_an_outbox_has_no_relay() -> None:
    bus = Bus("sqlite:///target.db")
    assert bus.outbox is None
    with pytest.raises(ConfigError, match="outbox="):
        bus.make_relay()


def test_the_environment_names_an_outbox() -> None:
    bus = Bus.from_env(environ={"POSTBUS_URL": "sqlite:///target.db", "POSTBUS_OUTBOX": "sqlite:///shop.db"})
    assert bus.outbox is not None


async def test_a_relay_that_fails_ends_its_worker(make: MakeBus, tmp_path: Path) -> None:
    bus = make()
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="all")
    async with bus.worker() as worker:
        for name in ("shop.db", "shop.db-wal", "shop.db-shm"):
            os.unlink(tmp_path / name)  # noqa: PTH108 - blocks for no longer than any other call here
        with pytest.raises(TransportBroken, match=r"shop\.db is gone"):
            async with asyncio.timeout(WITHIN):
                await worker.ended()


# -- reacting in a transaction of the outbox's database


async def test_what_a_transactional_subscriber_publishes_commits_with_its_effects(
    make: MakeBus, postgres_url: str, redis_url: str
) -> None:
    """The delivery is on Redis, the effects and the outbox in PostgreSQL."""
    table = f"effects_{uuid4().hex[:8]}"
    bus = make(redis_url, postgres_url, transactions=lambda: psycopg.connect(postgres_url))
    tries, seen = [], []

    @bus.subscriber(OrderPlaced, transactional=True, retry=Retry(attempts=3, delay=0.01))
    def react(placed: OrderPlaced, context: DeliveryContext) -> None:
        tries.append(placed.order_id)
        context.tx_as(psycopg.Connection).execute(f"INSERT INTO {table} VALUES (%s)", [placed.order_id])
        context.publish_sync(OrderForgotten(placed.order_id))
        if len(tries) == 1:
            raise ConnectionError("rolled back, and tried again")

    @bus.subscriber(OrderForgotten)
    async def note(forgotten: OrderForgotten) -> None:
        seen.append(forgotten.order_id)

    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE TABLE {table} (order_id text)")
        try:
            async with bus:
                await bus.publish(OrderPlaced("o-1"))
                await bus.drain()
            assert tries == ["o-1", "o-1"]
            assert admin.execute(f"SELECT order_id FROM {table}").fetchall() == [("o-1",)]
            assert seen == ["o-1"]
        finally:
            admin.execute(f"DROP TABLE {table}")


# -- the command line


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bus:
    """A program with an outbox, in a folder of its own."""
    (tmp_path / "outboxed.py").write_text(
        "from postbus import Bus\n"
        'bus = Bus("sqlite:///target.db", outbox="sqlite:///shop.db", lease=0.6)\n'
        '@bus.subscriber("orders.>")\n'
        "async def note(event): print(event.payload['order_id'])\n"
    )
    monkeypatch.chdir(tmp_path)
    bus = Bus("sqlite:///target.db", outbox="sqlite:///shop.db")
    with bus:
        bus.publish_sync(OrderPlaced("o-1"))
    return bus


def command(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "postbus", *words], check=False, capture_output=True, text=True, timeout=40
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_line_shows_and_empties_the_outbox(app: Bus) -> None:
    code, shown = command("status", "outboxed:bus", "--json", "--fail-on", "lag>0")
    stands = json.loads(shown.splitlines()[0])
    assert code == 4
    assert stands["outbox"]["pending"] == 1
    assert stands["broken_limits"] == [{"subscription": OUTBOX, "limit": "lag>0"}]
    code, shown = command("doctor", "outboxed:bus")
    assert code == 4
    assert "1 wait" in shown
    assert "no relay runs" in shown
    assert command("worker", "outboxed:bus", "--burst", "--no-relay")[0] == 0
    assert OUTBOX in command("status", "outboxed:bus")[1]
    assert command("relay", "outboxed:bus", "--burst")[0] == 0
    stands = json.loads(command("status", "outboxed:bus", "--json")[1])
    assert stands["outbox"]["pending"] == 0
    assert stands["totals"]["backlog"] == 1
    code, shown = command("worker", "outboxed:bus", "--burst")
    assert code == 0
    assert "o-1" in shown


def test_a_program_without_an_outbox_cannot_be_relayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain.py").write_text('from postbus import Bus\nbus = Bus("sqlite:///target.db")\n')
    monkeypatch.chdir(tmp_path)
    code, shown = command("relay", "plain:bus")
    assert code == 2
    assert "has no outbox to relay" in shown
