"""One hot topic in several logs: where an event goes, and that nobody but the store needs to know."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from postbus import Bus, ConfigError, Context, DeliveryContext, RawEvent, Reject, event
from postbus.catalog import Catalog
from postbus.codec import MsgpackCodec
from postbus.compatibility import problems, read_file
from postbus.envelope import Envelope, new_id, split_log
from postbus.event import logs_of, partition_of
from postbus.schema import asyncapi, described, json_schemas
from server_kinds import PostgresKind, RedisKind
from servers import own

KEYS = [f"o-{number}" for number in range(40)]


@event("orders.order.placed", key="order_id", partitions=4)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    number: int = 0


@event("orders.order.shipped", key="order_id", partitions=4)
@dataclass(frozen=True)
class OrderShipped:
    order_id: str


@event("visits.page.seen", partitions=4)
@dataclass(frozen=True)
class PageSeen:
    path: str


def envelope(partition: int | None, topic: str = "a") -> Envelope:
    return Envelope(new_id(), "a.b", topic, None, 0, 1, "x/y", b"", partition=partition)


# -- where an event goes


@given(st.integers(2, 256), st.text(min_size=1, max_size=50), st.binary(min_size=16, max_size=16))
def test_a_key_has_one_place_whatever_the_id(partitions: int, key: str, id_bytes: bytes) -> None:
    place = partition_of(partitions, key, id_bytes)
    assert place is not None
    assert 0 <= place < partitions
    assert place == partition_of(partitions, key, new_id())


def test_places_never_change_from_process_to_process_and_release_to_release() -> None:
    """Two programs that disagree break the order of a key."""
    assert [partition_of(8, key, b"") for key in ("o-1", "o-2", "å", "42")] == [2, 0, 5, 0]
    assert partition_of(8, None, bytes(16)) == 5
    assert partition_of(1, "o-1", b"") is None


def test_events_without_a_key_are_spread_by_their_ids() -> None:
    places = [partition_of(4, None, new_id()) for _ in range(4000)]
    assert all(800 < places.count(place) < 1200 for place in range(4))


@given(st.from_regex(r"[a-z.]{1,20}", fullmatch=True), st.none() | st.integers(0, 255))
def test_a_log_says_its_topic_and_its_number(topic: str, partition: int | None) -> None:
    assert split_log(envelope(partition, topic).log) == (topic, partition)


@pytest.mark.parametrize("log", ["", "#", "#3", "a#", "a#b", "a#-1", "a#²"])
def test_what_nobody_here_writes_is_a_topic_as_it_stands(log: str) -> None:
    assert split_log(log) == (log, None)


def test_a_subscription_is_told_of_all_logs_and_of_the_topic_itself() -> None:
    bus = Bus()

    @bus.subscriber(OrderPlaced, OrderShipped)
    def receive(_: OrderPlaced | OrderShipped) -> None: ...

    @bus.subscriber(OrderPlaced, PageSeen, topic="orders.order")
    def narrow(_: OrderPlaced | PageSeen) -> None: ...

    logs = ("orders.order", "orders.order#0", "orders.order#1", "orders.order#2", "orders.order#3")
    assert [subscriber.spec().topics for subscriber in bus.subscribers] == [logs, logs]
    assert logs_of("a", 1) == ("a",)


# -- what is declared


@pytest.mark.parametrize("partitions", [0, -1, 257, True, 2.0, "4", None])
def test_a_number_that_is_none_is_a_config_error(partitions: int) -> None:
    with pytest.raises(ConfigError, match=r"partitions=.*: expected a whole number from 1 to 256"):
        event("orders.order.placed", partitions=partitions)


def test_all_events_of_a_topic_have_the_same_number() -> None:
    @event("orders.order.cancelled", partitions=8)
    @dataclass(frozen=True)
    class OrderCancelled:
        order_id: str

    catalog = Catalog(MsgpackCodec())
    catalog.add(OrderPlaced)
    catalog.add(OrderShipped)
    with pytest.raises(ConfigError, match=r"'orders.order' has partitions=4 by .*OrderPlaced.*=8 by .*Cancelled"):
        catalog.add(OrderCancelled)
    assert "orders.order.cancelled" not in catalog.types()


@pytest.mark.parametrize("objects", [True, False])
def test_whatever_way_it_is_sealed_it_has_one_place(objects: bool) -> None:
    catalog = Catalog(MsgpackCodec(), objects=objects)
    place = partition_of(4, "o-7", b"")
    sealed = [
        catalog.seal(OrderPlaced("o-7"), micros=0),
        catalog.seal(OrderPlaced("other"), key="o-7", micros=0),
        catalog.sealer(OrderPlaced)(OrderPlaced("o-7"), 0),
        catalog.seal(RawEvent("orders.order.placed", {}, key="o-7"), micros=0),
        catalog.seal(RawEvent("orders.order.refunded", {}, key="o-7"), micros=0),  # of a topic that is known
    ]
    assert {(one.topic, one.partition) for one in sealed} == {("orders.order", place)}
    assert catalog.seal(RawEvent("orders.item.placed", {}, key="o-7"), micros=0).partition is None


def test_an_export_says_it_and_the_check_finds_a_change() -> None:
    bus = Bus()
    bus.catalog.add(OrderPlaced)
    for document in (asyncapi(bus), json_schemas(bus)):
        old = read_file(document)
        assert old["orders.order.placed"].partitions == 4
        assert problems(old, described(bus)) == []
        text = json.dumps(document).replace('"x-postbus-partitions": 4', '"x-postbus-partitions": 8')
        (found,) = problems(read_file(json.loads(text)), described(bus))
        assert found.message == "went from partitions=8 to 4: order ends there"


# -- what a program sees


@pytest.fixture
def redis_url() -> Iterator[str]:
    for server in own(RedisKind()):
        yield server.url


@pytest.fixture
def postgres_url() -> Iterator[str]:
    for server in own(PostgresKind()):
        yield server.url


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return "memory://?codec=msgpack"
        case "sqlite":
            return f"sqlite:///{tmp_path}/shop.db"
        case _:
            return str(request.getfixturevalue(f"{request.param}_url"))


async def test_only_the_store_knows(url: str) -> None:
    """Handlers, contexts, stats, dead letters, listings and metrics speak of the topic."""
    bus = Bus(url)
    heard: list[str] = []
    received: dict[str, list[int]] = {}
    topics: set[str] = set()

    @bus.on("orders.>")
    def hear(one: RawEvent, context: Context) -> None:
        heard.append(context.envelope.topic)

    @bus.subscriber(OrderPlaced, ordered=True)
    async def receive(placed: OrderPlaced, context: DeliveryContext) -> None:
        topics.add(context.envelope.topic)
        received.setdefault(placed.order_id, []).append(placed.number)

    @bus.subscriber("orders.>", topic="orders.order")
    async def refuse(one: RawEvent) -> None:
        raise Reject("no")

    async with bus:
        sent = await bus.publish_many([OrderPlaced(key, number) for number in range(3) for key in KEYS])
        assert {one.partition for one in sent} == {0, 1, 2, 3}
        await bus.drain(timeout=20)
        assert received == {key: [0, 1, 2] for key in KEYS}
        assert set(heard) == topics == {"orders.order"}
        stats = await bus.stats()
        assert [(stats[name].backlog, stats[name].dead) for name in ("receive", "refuse")] == [(0, 0), (0, 120)]
        letters = await bus.dead.list("refuse", limit=1000)
        assert {one.id for one in sent} == {letter.envelope.id for letter in letters}
        assert {letter.envelope.topic for letter in letters} == {"orders.order"}
        assert await bus.dead.replay("refuse") == 120


async def test_a_program_with_another_number_drains_what_the_older_left(redis_url: str) -> None:
    """The older partitions stay the subscription's, and so does the topic itself."""
    for partitions in (1, 6, 2):

        @event("orders.order.placed", key="order_id", partitions=partitions)
        @dataclass(frozen=True)
        class Placed:
            order_id: str

        bus = Bus(redis_url)
        bus.add_subscriber(lambda one: None, Placed, name="receipts")
        async with bus:
            await bus.publish_many([Placed(key) for key in KEYS])
    bus = Bus(redis_url)
    received: list[str] = []

    @bus.subscriber(Placed, name="receipts")
    async def receive(placed: Placed) -> None:
        received.append(placed.order_id)

    async with bus:
        await bus.drain(timeout=20)
    assert sorted(received) == sorted(KEYS * 3)


@pytest.mark.parametrize("outbox", ["sqlite", "postgres"])
async def test_an_outbox_forwards_to_the_same_place(
    request: pytest.FixtureRequest, outbox: str, tmp_path: Path, redis_url: str
) -> None:
    at = f"sqlite:///{tmp_path}/shop.db" if outbox == "sqlite" else request.getfixturevalue("postgres_url")
    bus = Bus(redis_url, outbox=at)
    received: list[Envelope] = []
    complete = asyncio.Event()

    @bus.subscriber(OrderPlaced)
    async def receive(_: OrderPlaced, context: DeliveryContext) -> None:
        received.append(context.envelope)
        if len(received) == len(KEYS):
            complete.set()

    async with bus:
        sent = await bus.publish_many([OrderPlaced(key) for key in KEYS])
        async with bus.worker(), asyncio.timeout(20):
            await complete.wait()
    assert {one.id: one.log for one in received} == {one.id: one.log for one in sent}
    with redis.Redis.from_url(redis_url) as admin:
        assert len(list(admin.scan_iter("{postbus/orders.order#*}:c"))) == 4


def test_the_command_line_lists_how_many_logs_a_topic_has(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from dataclasses import dataclass\n"
        "from postbus import Bus, event\n"
        "bus = Bus()\n"
        "@event('orders.order.placed', partitions=6)\n"
        "@dataclass(frozen=True)\n"
        "class OrderPlaced: ...\n"
        "@bus.on\n"
        "def hear(placed: OrderPlaced) -> None: ...\n"
    )
    command = [sys.executable, "-m", "postbus", "events", "declared", "shop:bus"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=True).stdout
    assert "orders.order in 6 logs" in shown
