"""How much a claim looks at: not at what is done and cannot be tidied away, and not at all of it for each delivery."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import psycopg
import pytest

from postbus.address import Address, Settings
from postbus.delivery import Ack, Delivery, Release, Requeue
from postbus.drivers import driver_of, perform
from postbus.envelope import Envelope, new_id
from postbus.transport import Outgoing, Stored, SubscriptionSpec
from postbus.transports.postgres import PostgresTransport, claiming, connect
from postbus.transports.postgres.claiming import _View

RECEIPTS = SubscriptionSpec(name="receipts", wants=("orders.>",))
# A look that took so many seconds is not done again for nine times as long.
DEAR = 0.05


def sealed(key: str | None = None) -> Outgoing:
    return Outgoing(Envelope(new_id(), "orders.order.placed", "orders.order", key, 1, 1, "text/plain", b"x"))


@contextlib.asynccontextmanager
async def opened(url: str, spec: SubscriptionSpec = RECEIPTS) -> AsyncIterator[PostgresTransport]:
    transport = connect(Address.parse(url), Settings(namespace=f"t{uuid4().hex[:12]}"))
    await transport.open()
    try:
        await transport.declare([spec])
        yield transport
    finally:
        await transport.close()


async def claimed(transport: PostgresTransport, limit: int = 10) -> tuple[Sequence[Delivery], float | None]:
    """What a claim gives, and when the next one should be."""
    found = await transport.claim("receipts", owner="a", limit=limit, lease=30)
    return found.deliveries, found.next_due


def as_if_dear(transport: PostgresTransport, first: Delivery) -> None:
    """The last look at all of it found this one first, after long."""
    claiming = transport._claiming
    seq = first.receipt.seq
    claiming._views["receipts"] = _View(claiming._now() + 9 * DEAR, seq, seq, claiming._now(), dear=5)


async def look_at_the_tables(transport: PostgresTransport) -> None:
    """As autovacuum does now and then."""
    for table in ("delivery", "event"):
        await transport._line.ask(transport._tables(f"ANALYZE postbus.{table}"))


async def again(transport: PostgresTransport) -> Sequence[Delivery]:
    """What is given when it is time to look again, which is soon."""
    given, due = await claimed(transport)
    assert not given
    assert due is not None
    assert 0 < due <= 9 * DEAR
    await asyncio.sleep(due)
    return (await claimed(transport))[0]


async def test_what_is_done_is_not_walked_over_again(postgres_url: str) -> None:
    async with opened(postgres_url) as transport:
        claim = transport._tables("SELECT seq, micros FROM postbus.claim('receipts', 'a', 0, 30, false, false, %s)")

        async def looked(floor: int) -> tuple[int, int]:
            """The first that is ready from here on, and the least time in which that was seen."""
            rows = [row for _ in range(5) for row in await transport._line.ask(claim, (floor,))]
            return rows[0][0], min(micros for _, micros in rows)

        with psycopg.connect(postgres_url) as elsewhere:
            elsewhere.execute("SELECT pg_current_xact_id()")
            for _ in range(40):
                await transport.append([sealed() for _ in range(500)])
                given, _ = await claimed(transport, 500)
                await transport.settle([(delivery, Ack()) for delivery in given])
            await transport.append([sealed()])
            first, all_of_it = await looked(0)
            same, from_there = await looked(first)
            assert first == same
            assert from_there < all_of_it / 5


async def test_a_dear_look_is_not_repeated_at_once(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "_DEAR", 0.0)
    monkeypatch.setattr(claiming, "_OFTEN", 2)
    monkeypatch.setattr(claiming, "_REST", 1e9)
    async with opened(postgres_url) as transport:
        await transport.append([sealed() for _ in range(3)])
        (one,), due = await claimed(transport, 1)
        assert due is None
        await transport.settle([(one, Release())])
        (first,), _ = await claimed(transport, 1)  # it is where the next look begins
        assert first.receipt == one.receipt
        (two,), due = await claimed(transport, 1)
        assert due is not None
        await transport.settle([(one, Release()), (first, Release())])
        (three,), _ = await claimed(transport)
        assert three.receipt.seq > two.receipt.seq


async def test_a_quick_look_is_at_all_of_it_each_time(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "_DEAR", 1e9)
    async with opened(postgres_url) as transport:
        await transport.append([sealed() for _ in range(3)])
        (one, two), due = await claimed(transport, 2)
        await transport.settle([(one, Release()), (two, Release())])
        assert [each.receipt for each in (await claimed(transport, 2))[0]] == [one.receipt, two.receipt]
        assert due is None


async def test_who_commits_late_is_found_at_the_next_look_at_all(postgres_url: str) -> None:
    async with opened(postgres_url) as transport:
        with psycopg.connect(postgres_url) as connection:
            late = sealed()
            assert perform(driver_of(connection), connection, transport.append_within([late])) == [Stored(1)]
            await transport.append([sealed() for _ in range(2)])
            (one, two), _ = await claimed(transport)
            as_if_dear(transport, one)
            connection.commit()
            (found,) = await again(transport)
            assert found.envelope.id_bytes == late.envelope.id_bytes
            assert (await transport.settle([(one, Ack()), (two, Ack()), (found, Ack())])) != []


async def test_what_was_handed_back_or_failed_is_found_at_the_next_look_at_all(postgres_url: str) -> None:
    async with opened(postgres_url) as transport:
        await transport.append([sealed() for _ in range(4)])
        (one, two, three, four), _ = await claimed(transport)
        as_if_dear(transport, four)
        await transport.settle([(one, Release()), (two, Requeue(0)), (three, Requeue(0, suspect=True))])
        found = await again(transport)
        assert {each.receipt for each in found} == {one.receipt, two.receipt}
        suspect = await transport.claim("receipts", owner="a", limit=1, lease=30, alone=True)
        assert [each.receipt for each in suspect.deliveries] == [three.receipt]


async def test_keys_go_on_in_order_between_two_looks_at_all(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claiming, "_LAG", 60.0)
    spec = SubscriptionSpec(name="receipts", wants=("orders.>",), ordered=True)
    async with opened(postgres_url, spec) as transport:
        await transport.append([sealed("k")])
        (head,), _ = await claimed(transport)
        as_if_dear(transport, head)
        await transport.append([sealed("k"), sealed("other"), sealed("k")])
        (other,), _ = await claimed(transport)
        assert other.envelope.key == "other"
        for _ in range(2):
            await transport.settle([(head, Ack())])
            (following,), _ = await claimed(transport)
            assert following.receipt.seq > head.receipt.seq
            head = following
        assert head.envelope.key == "k"


@pytest.mark.parametrize(("ordered", "waiting"), [(False, 1500), (True, 5000)], ids=["unordered", "ordered"])
async def test_a_claim_is_planned_as_well_on_empty_tables(postgres_url: str, ordered: bool, waiting: int) -> None:
    """A worker that started when there was nothing keeps the plan of that time."""
    spec = SubscriptionSpec(name="receipts", wants=("orders.>",), ordered=ordered)

    async def took(transport: PostgresTransport, waiting: int) -> float:
        """The time of a few claims while there is much."""
        took = 0.0
        for more in (waiting, 1500, 1500, 1500, 1500, 1500):
            for _ in range(more // 500):
                await transport.append([sealed(f"k{n}") for n in range(500)])
            began = time.perf_counter()
            given, _ = await claimed(transport, 100)
            took += time.perf_counter() - began
            await transport.settle([(delivery, Ack()) for delivery in given])
        return took

    async with opened(postgres_url, spec) as transport:
        await look_at_the_tables(transport)
        for _ in range(8):
            await claimed(transport)
        nearly_empty = await took(transport, waiting)
        await look_at_the_tables(transport)
        assert nearly_empty < 5 * await took(transport, 0)
