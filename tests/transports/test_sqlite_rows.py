"""What anybody may have written into SQLite's tables, and what is forgotten from them in time."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_ground import SPEC, broken_laws, claim, item, items, opened, settle

from postbus.delivery import Ack, Bury, Failure, Requeue
from postbus.testing import ManualClock
from postbus.transport import DeadQuery, Duplicate, EventQuery, Stored, SubscriptionSpec
from postbus.transports.sqlite import SqliteTransport
from postbus.transports.sqlite.ids import Ids
from postbus.transports.sqlite.schema import Tables, create
from postbus.transports.sqlite.store import Transaction

GOOD: dict[str, Any] = {
    "id": b"i" * 16,
    "name": "a.b",
    "topic": "a",
    "key": None,
    "micros": 1,
    "version": 1,
    "format": "application/json",
    "expires": None,
    "headers": None,
    "body": b"{}",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def transport(path: Path) -> AsyncIterator[SqliteTransport]:
    transport = await opened(path)
    yield transport
    await transport.close()
    assert broken_laws(path) == []


def insert(path: Path, **columns: Any) -> None:
    """Write an event as a stranger would, with the delivery that belongs to it."""
    row = {**GOOD, **columns}
    with sqlite3.connect(path) as connection:
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        (seq,) = connection.execute("UPDATE postbus_meta SET seq = seq + 1 RETURNING seq").fetchone()
        values = (seq, *row.values())
        connection.execute(f"INSERT INTO postbus_event (seq, pending, {names}) VALUES (?, 1, {marks})", values)
        connection.execute("INSERT INTO postbus_ready VALUES (1, ?, ?)", (seq, seq))
    connection.close()


HOSTILE = {
    "a short id": {"id": b"i"},
    "an id of text": {"id": "i" * 16},
    "a name of bytes": {"name": b"a.b"},
    "a key of bytes": {"key": b"k"},
    "a time of text": {"micros": "yesterday"},
    "a time before 1970": {"micros": -1},
    "a time beyond all dates": {"micros": 2**62},
    "an expiry beyond all dates": {"expires": 2**62},
    "a version of text": {"version": "one"},
    "a body of text": {"body": "{}"},
    "headers that are no JSON": {"headers": "{"},
    "headers that are a list": {"headers": "[]"},
    "headers of numbers": {"headers": '{"a": 1}'},
    "headers of bytes": {"headers": b"\xff\xfe"},
    "headers of very deep JSON": {"headers": "[" * 100_000},
}


@pytest.mark.parametrize("columns", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_row_that_is_no_event_is_buried_and_the_next_one_handled(
    columns: dict[str, Any], path: Path, transport: SqliteTransport
) -> None:
    insert(path, **columns)
    await transport.append([item(b"good")])
    claimed = await claim(transport)
    assert [delivery.envelope.body for delivery in claimed.deliveries] == [b"good"]
    (letter,) = await transport.dead("s", DeadQuery())
    assert letter.reason.startswith("undecodable")
    assert (letter.attempts, letter.envelope.version in (0, 1)) == (0, True)
    assert len(await transport.events(EventQuery())) == 2
    assert await transport.events(EventQuery(correlation_id="c")) == []
    assert (await transport.stats())[0].dead == 1
    assert await settle(transport, claimed.deliveries) == ["Settled"]
    assert await transport.discard("s", [letter.id]) == 1


async def test_text_that_is_not_utf8_is_buried_too(path: Path, transport: SqliteTransport) -> None:
    await transport.append([item(b"one"), item(b"two")])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE postbus_event SET name = CAST(x'ff80ff' AS TEXT) WHERE body = x'6f6e65'")
    connection.close()
    assert [delivery.envelope.body for delivery in (await claim(transport)).deliveries] == [b"two"]
    (letter,) = await transport.dead("s", DeadQuery())
    assert "not UTF-8" in letter.reason
    assert letter.envelope.body == b"one"
    assert {event.envelope.body for event in await transport.events(EventQuery())} == {b"one", b"two"}


async def test_a_stranger_may_write_a_good_event(path: Path, transport: SqliteTransport) -> None:
    insert(path, body=b'{"a": 1}', headers='{"traceparent": "00-1-2-01"}', key="k")
    (delivery,) = (await claim(transport)).deliveries
    envelope = delivery.envelope
    assert (envelope.key, envelope.body, dict(envelope.headers)) == ("k", b'{"a": 1}', {"traceparent": "00-1-2-01"})
    assert await settle(transport, [delivery]) == ["Settled"]


async def test_a_delivery_whose_event_is_gone_is_forgotten(path: Path, transport: SqliteTransport) -> None:
    await transport.append(items(3))
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM postbus_event WHERE seq = 2")
    connection.close()
    claimed = await claim(transport)
    assert [delivery.envelope.body for delivery in claimed.deliveries] == [b"0", b"2"]
    assert await settle(transport, claimed.deliveries) == ["Settled"] * 2


async def test_text_that_no_column_takes_is_written_as_near_as_can_be(transport: SqliteTransport) -> None:
    await transport.append([item()])
    (delivery,) = (await claim(transport)).deliveries
    failure = Failure("ValueError", "half a pair: \ud800", "Traceback: \ud800")
    assert await settle(transport, [delivery], Bury("why: \ud800", failure)) == ["Settled"]
    (letter,) = await transport.dead("s", DeadQuery(error="half a pair"))
    assert "ud800" in letter.error


async def test_the_failure_of_the_last_run_stays_with_a_delivery(transport: SqliteTransport) -> None:
    await transport.append([item()])
    for outcome in (Requeue(0, Failure("ValueError", "first")), Requeue(0, Failure("ValueError", "last")), Requeue(0)):
        await settle(transport, (await claim(transport)).deliveries, outcome)
    (delivery,) = (await claim(transport)).deliveries
    await settle(transport, [delivery], Bury("expired"))
    (letter,) = await transport.dead("s", DeadQuery())
    assert (letter.reason, letter.attempts) == ("expired", 2)
    assert letter.failure == Failure("ValueError", "last")


# -- numbers and ranges


async def test_a_batch_is_one_row_for_each_subscription(path: Path, transport: SqliteTransport) -> None:
    await transport.append(items(1000))
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM postbus_ready").fetchall() == [(1,)]
    connection.close()
    first = (await claim(transport, limit=10)).deliveries
    assert [delivery.receipt[1] for delivery in first] == list(range(1, 11))
    assert broken_laws(path) == []


async def test_subscriptions_with_different_tastes_share_the_numbers(path: Path) -> None:
    specs = [SubscriptionSpec(name="all", wants=(">",)), SubscriptionSpec(name="odd", wants=("a.odd",))]
    transport = await opened(path, *specs)
    await transport.append([item(b"%d" % n, name="a.odd" if n % 2 else "a.even") for n in range(50)])
    odd = (await claim(transport, "odd")).deliveries
    assert [int(delivery.envelope.body) for delivery in odd] == list(range(1, 50, 2))
    assert len((await claim(transport, "all")).deliveries) == 50
    assert broken_laws(path) == []
    await transport.close()


async def test_numbers_are_never_given_twice(path: Path) -> None:
    seen: set[int] = set()
    for _ in range(3):
        transport = await opened(path)
        await transport.append(items(5))
        claimed = await claim(transport)
        seen |= {delivery.receipt[1] for delivery in claimed.deliveries}
        await settle(transport, claimed.deliveries)
        await transport.close()
    assert len(seen) == 15


# -- what is forgotten


async def tidied(transport: SqliteTransport) -> None:
    """Look after the house until nothing is to be done."""
    house = transport._open_house()
    while await asyncio.to_thread(house._tidy):
        pass


def count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    (found,) = connection.execute(f"SELECT count(*) FROM postbus_{table}").fetchone()
    connection.close()
    return int(found)


async def test_old_ids_are_forgotten_and_young_ones_are_not(path: Path) -> None:
    clock = ManualClock()
    transport = await opened(path, clock=clock)
    await transport.append([item(id_=uuid4().bytes) for _ in range(1200)])
    await transport.append(items(1200))
    assert count(path, "seen") >= 1200
    assert 0 < count(path, "seen_together") < 100
    clock.advance(700)
    young = [item(), *items(20)]
    await transport.append(young[:1])
    await transport.append(young[1:])
    clock.advance(599)
    await tidied(transport)
    assert await transport.append(young) == [Duplicate()] * 21
    assert (count(path, "seen"), count(path, "seen_together")) == (1, 1)
    clock.advance(1300)
    await tidied(transport)
    assert (count(path, "seen"), count(path, "seen_together")) == (0, 0)
    await transport.close()


@given(
    batches=st.lists(
        st.lists(
            st.tuples(st.integers(0, 2**48 - 1) | st.integers(10**12, 10**12 + 100), st.integers(0, 3)), max_size=70
        ),
        max_size=6,
    )
)
@settings(max_examples=100, deadline=None)
def test_an_id_is_known_if_it_was_remembered_whatever_it_looks_like(batches: list[list[tuple[int, int]]]) -> None:
    tables, connection = Tables("x"), sqlite3.connect(":memory:", isolation_level=None)
    create(connection, tables)
    ids = Ids(tables)
    remembered: set[bytes] = set()
    for batch in batches:
        some = [moment.to_bytes(6, "big") + bytes(9) + bytes([number]) for moment, number in batch]
        if not some:
            continue
        assert ids.known(connection.execute, 1000.0, some) & set(some) == remembered & set(some)
        ids.remember(connection.execute, 1000.0, set(some) - remembered)
        remembered |= set(some)
    for one in remembered:
        assert one in ids.known(connection.execute, 1500.0, [one])
    connection.close()


async def test_history_goes_when_its_time_is_over_and_nobody_holds_it(path: Path) -> None:
    clock = ManualClock()
    transport = await opened(path, clock=clock, retain=3600)
    await transport.append(items(1200))
    claimed = await claim(transport, limit=1100)
    await settle(transport, claimed.deliveries)
    clock.advance(3000)
    await tidied(transport)
    assert count(path, "event") == 1200
    clock.advance(601)
    await tidied(transport)
    assert count(path, "event") == 100
    assert broken_laws(path) == []
    await transport.close()


async def test_a_newcomer_that_was_given_half_of_what_is_stored_gets_the_rest(path: Path) -> None:
    clock = ManualClock()
    transport = await opened(path, clock=clock, retain=3600)
    await transport.append(items(12_000))
    declaring = transport._open_house().declaring
    newcomer = SubscriptionSpec(name="new", wants=("a.>",), start="earliest")

    def declare(transaction: Transaction) -> object:
        return declaring.declare(transaction, [newcomer], newest=False)

    await transport._change(declare)
    before = (await transport.stats(["new"]))[0].backlog
    assert 0 < before < 12_000
    assert await transport.append([item()]) == [Stored(2)], "others write meanwhile"
    await tidied(transport)
    assert (await transport.stats(["new"]))[0].backlog == before + 1, "it may be at it still"
    clock.advance(60)
    await tidied(transport)
    assert (await transport.stats(["new"]))[0].backlog == 12_001
    assert broken_laws(path) == []
    await transport.close()


async def test_a_retirement_that_was_broken_off_is_finished(path: Path) -> None:
    transport = await opened(path, SPEC, SubscriptionSpec(name="stays", wants=("a.>",)))
    await transport.append(items(3000))
    house = transport._open_house()

    def take_the_name_away(transaction: Transaction) -> object:
        return house.declaring.retire(transaction, "s")

    await transport._change(take_the_name_away)
    await tidied(transport)
    assert count(path, "ready") == 1
    assert [info.name for info in await transport.subscriptions()] == ["stays"]
    claimed = await claim(transport, "stays", limit=3000)
    assert set(await settle(transport, claimed.deliveries, Ack())) == {"Settled"}
    assert count(path, "event") == 0
    assert broken_laws(path) == []
    await transport.close()
