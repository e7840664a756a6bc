"""What can befall PostgreSQL alone: ended connections, what others do, rows that are no events."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig, rig

from postbus import Bus, RawEvent
from postbus.address import Address, Settings
from postbus.delivery import Ack
from postbus.envelope import Envelope, new_id
from postbus.transport import Outgoing, Stored, SubscriptionSpec
from postbus.transports.postgres import PostgresTransport, connect
from server_kinds import PostgresKind
from servers import Server, own

RECEIPTS = SubscriptionSpec(name="receipts", wants=("orders.>",))


def sealed(key: str | None = None) -> Outgoing:
    return Outgoing(Envelope(new_id(), "orders.order.placed", "orders.order", key, 1, 1, "text/plain", b"x"))


@contextlib.asynccontextmanager
async def opened(url: str, **settings: Any) -> AsyncIterator[PostgresTransport]:
    transport = connect(Address.parse(url), Settings(**{"namespace": f"t{uuid4().hex[:12]}"} | settings))
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


# -- connections are ended


@pytest.fixture
def server() -> Iterator[Server]:
    yield from own(PostgresKind())


@pytest.mark.soak
@pytest.mark.timeout(90)
async def test_ended_connections_lose_nothing(server: Server, tmp_path: Path) -> None:
    """FAULTS 44: some are ended every 0.5 s, whatever they do; work goes on within a second."""
    with rig(tmp_path, server.url, pause=0.02) as torment:  # so that events flow for at least 12 s
        await end_connections(torment, server)


async def end_connections(torment: Rig, server: Server) -> None:
    luck = random.Random(44)
    rounds = 0
    publishers = [torment.publisher(start, 3_000, 5) for start in (0, 3_000)]
    workers = [torment.worker(), torment.worker()]
    await torment.more_ends(50)
    with psycopg.connect(server.url, autocommit=True) as admin:
        while rounds < 12 and torment.ledger.count("ACK") < 5_000:
            rounds += 1
            pids = [
                pid
                for (pid,) in admin.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'postbus'")
                if luck.random() < 0.5
            ]
            admin.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS u(pid)", (pids,))
            ended_at = time.monotonic()
            await torment.more_ends(1)
            assert time.monotonic() - ended_at < 5, "it goes on soon"  # 1 s, on a machine that is not shared
            await asyncio.sleep(max(0.0, 0.5 - (time.monotonic() - ended_at)))  # the fault's own pace
    await torment.until(lambda: all(p.poll() == 0 for p in publishers), 60, "the publishers end")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted == 6_000, verdict
    assert not verdict.lost, verdict
    assert not verdict.unexpected, verdict
    assert not verdict.overlaps, verdict
    assert not verdict.disorder, verdict
    assert verdict.extra_starts <= 12 * 2 * 2 * torment.concurrency, verdict
    assert all(worker.poll() is None for worker in workers)
    assert rounds >= 5


async def test_idle_connections_that_were_ended_cost_no_publisher_an_error(postgres_url: str) -> None:
    namespace = f"t{uuid4().hex[:12]}"
    async with opened(postgres_url, namespace=namespace) as transport:
        await transport.declare([RECEIPTS])
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            for _ in range(5):
                pids = [link.connection.info.backend_pid for link in transport._line._idle]
                admin.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS u(pid)", (pids,))
                while admin.execute("SELECT FROM pg_stat_activity WHERE pid = ANY(%s)", (pids,)).fetchall():
                    pass
                assert await transport.append([sealed()]) == [Stored(1)]


# -- others


async def test_many_who_open_at_once_make_the_tables_once(postgres_url: str) -> None:
    """FAULTS 49."""
    namespace = f"t{uuid4().hex[:12]}"
    made = [connect(Address.parse(postgres_url), Settings(namespace=namespace)) for _ in range(8)]
    await asyncio.gather(*(transport.open() for transport in made))
    await asyncio.gather(*(transport.declare([RECEIPTS]) for transport in made))
    assert await made[0].append([sealed()]) == [Stored(1)]
    await asyncio.gather(*(transport.close() for transport in made))


async def test_whoever_migrates_holds_up_no_worker(postgres_url: str) -> None:
    """FAULTS 49: the lock of migrations is none of those that the road takes."""
    namespace = f"t{uuid4().hex[:12]}"
    async with opened(postgres_url, namespace=namespace) as transport:
        await transport.declare([RECEIPTS])
        with psycopg.connect(postgres_url) as migrator:
            migrator.execute("SELECT pg_advisory_xact_lock(%s, 0)", (transport._tables.lock,))
            async with asyncio.timeout(5):
                await transport.append([sealed()])
                (delivery,) = (await transport.claim("receipts", owner="a", limit=1, lease=30)).deliveries
                await transport.settle([(delivery, Ack())])
            migrator.rollback()


async def test_a_transaction_in_another_database_holds_up_nothing(postgres_url: str) -> None:
    """FAULTS 19."""
    database = f"other_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {database}".encode())
        try:
            with psycopg.connect(f"{postgres_url.rpartition('/')[0]}/{database}") as other:
                other.execute("CREATE TABLE written (id integer)")
                async with opened(postgres_url) as transport:
                    await transport.declare([RECEIPTS])
                    async with asyncio.timeout(5):
                        await transport.append([sealed()])
                        claimed = await transport.claim("receipts", owner="a", limit=1, lease=30)
                        assert len(claimed.deliveries) == 1
        finally:
            admin.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())


async def test_a_bell_carries_however_long_the_names_and_however_many(postgres_url: str) -> None:
    """FAULTS 47: a namespace as long as a name can be, and more subscriptions than a NOTIFY can name."""
    namespace = f"n{uuid4().hex}".ljust(63, "x")
    name = "s" * 200
    spec = SubscriptionSpec(name=name, wants=("orders.>",))
    async with opened(postgres_url, namespace=namespace) as one, opened(postgres_url, namespace=namespace) as other:
        for transport in (one, other):
            await transport.declare([spec])
            await transport.wait([name], 0.3)
        await one.append([sealed()])
        async with asyncio.timeout(10):
            while not await other.wait([name], 1.0):
                pass
        one._bell.ring(range(10_000))
        async with asyncio.timeout(10):
            while not await other.wait([name], 1.0):
                pass


async def test_rows_that_are_no_events_become_dead_letters_and_the_next_event_is_handled(postgres_url: str) -> None:
    """FAULTS 64: written directly into the tables."""
    namespace = f"t{uuid4().hex[:12]}"
    handled: list[str] = []
    bus = Bus(postgres_url, namespace=namespace)

    @bus.subscriber("orders.>", name="receipts")
    async def receive(event: RawEvent) -> None:
        handled.append(event.name)

    rows = [
        ("application/msgpack", b"\xc1", None, 1),  # no msgpack
        ("application/msgpack", b"\xdf\xff\xff\xff\xff", None, 1),  # an object of four thousand million fields
        ("application/msgpack", b"\x91" * 100_000, None, 1),  # nested too deeply
        ("application/json", b"[" * 100_000, None, 1),
        ("application/json", b'{"a": ' + b"1" * 5_000 + b"}", None, 1),
        ("application/nothing", b"", None, 1),
        ("application/msgpack", b"\x80", '{"a": 1}', 1),  # a header that is no text
        ("application/msgpack", b"\x80", None, 2**62),  # a time that does not exist
        ("application/msgpack", b"\xc4" + b"\0" * 10_000_000, None, 1),  # too large
    ]
    async with bus:
        await bus.publish(RawEvent("orders.order.placed", {}))
        await bus.drain()
        with psycopg.connect(postgres_url) as writer:
            for number, (format_, body, headers, micros) in enumerate(rows, 1_000_000):
                writer.execute(
                    f"INSERT INTO {namespace}.event (seq, id, micros, routes, version, name, topic, format, headers, "
                    f"body) VALUES (%s, gen_random_uuid(), %s, 1, 1, 'orders.order.placed', 'orders.order', %s, "
                    f"%s::jsonb, %s)".encode(),
                    (number, micros, format_, headers, body),
                )
                writer.execute(
                    f"INSERT INTO {namespace}.delivery (seq, subscription, state) "
                    f"SELECT %s, id, 1 FROM {namespace}.subscription".encode(),
                    (number,),
                )
        await bus.publish(RawEvent("orders.order.shipped", {}))
        await bus.drain()
        letters = await bus.dead.list("receipts")
    assert handled == ["orders.order.placed", "orders.order.shipped"]
    assert len(letters) == len(rows), [letter.reason for letter in letters]
    assert all(letter.reason.startswith("undecodable") for letter in letters), [letter.reason for letter in letters]
