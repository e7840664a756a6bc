"""SQLite appends inside the caller's transaction, and subscribers' effects inside their own."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
from sqlite_ground import SPEC, broken_laws, claim, item, items, opened, settle, unstorable

from postbus.delivery import Ack, Delivery
from postbus.drivers import Script, driver_of, perform
from postbus.errors import ConfigError, LeaseLost
from postbus.transport import Append, Duplicate, Outgoing, Refused, Settled, Stored, SubscriptionSpec
from postbus.transports.sqlite import SqliteTransport

T = TypeVar("T")

ORDERED = SubscriptionSpec(name="o", wants=("a.>",), ordered=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def transport(path: Path) -> AsyncIterator[SqliteTransport]:
    transport = await opened(path, SPEC, ORDERED)
    yield transport
    await transport.close()
    assert broken_laws(path) == []


@pytest.fixture
def mine(path: Path, transport: SqliteTransport) -> Iterator[sqlite3.Connection]:
    """The caller's own connection, as `sqlite3.connect` makes it, with a table of the caller's."""
    connection = sqlite3.connect(path, timeout=0.05)
    connection.execute("CREATE TABLE shop (name TEXT)")
    connection.commit()
    yield connection
    connection.close()


def within(connection: sqlite3.Connection, script: Script[T]) -> T:
    driver = driver_of(connection)
    assert driver is not None
    return perform(driver, connection, script)


def append_within(
    transport: SqliteTransport, connection: sqlite3.Connection, items: Sequence[Outgoing]
) -> Sequence[Append]:
    return within(connection, transport.append_within(items))


def surviving(transport: SqliteTransport, connection: sqlite3.Connection, ids: Sequence[bytes]) -> Set[bytes]:
    return within(connection, transport.surviving(ids))


async def bodies(transport: SqliteTransport, subscription: str = "s") -> list[bytes]:
    return [delivery.envelope.body for delivery in (await claim(transport, subscription)).deliveries]


async def test_an_event_exists_if_the_transaction_commits(transport: SqliteTransport, mine: sqlite3.Connection) -> None:
    mine.execute("INSERT INTO shop VALUES ('kept')")
    assert append_within(transport, mine, [item(b"kept")]) == [Stored(2)]
    assert mine.in_transaction
    assert await bodies(transport) == []
    mine.commit()
    assert await bodies(transport) == [b"kept"]


async def test_no_event_exists_if_it_rolls_back(transport: SqliteTransport, mine: sqlite3.Connection) -> None:
    one = item(b"gone")
    append_within(transport, mine, [one])
    mine.rollback()
    assert await bodies(transport) == []
    assert await transport.append([one]) == [Stored(2)], "its id was forgotten with it"


async def test_a_savepoint_takes_back_what_was_published_in_it(
    transport: SqliteTransport, mine: sqlite3.Connection
) -> None:
    kept, gone = item(b"kept"), item(b"gone")
    mine.execute("BEGIN IMMEDIATE")
    append_within(transport, mine, [kept])
    mine.execute("SAVEPOINT part")
    append_within(transport, mine, [gone])
    mine.execute("ROLLBACK TO part")
    ids = [kept.envelope.id_bytes, gone.envelope.id_bytes]
    assert surviving(transport, mine, ids) == {kept.envelope.id_bytes}
    mine.commit()
    assert await bodies(transport) == [b"kept"]


async def test_an_id_is_stored_once_however_it_comes(transport: SqliteTransport, mine: sqlite3.Connection) -> None:
    one = item()
    await transport.append([one])
    assert append_within(transport, mine, [one]) == [Duplicate()]
    mine.commit()
    assert len(await bodies(transport)) == 1


async def test_keys_and_delays_hold_inside_a_transaction(transport: SqliteTransport, mine: sqlite3.Connection) -> None:
    await transport.append([item(b"1", key="k")])
    append_within(transport, mine, [item(b"2", key="k"), item(b"later", delay=60)])
    mine.commit()
    first = (await claim(transport, "o")).deliveries
    assert [delivery.envelope.body for delivery in first] == [b"1"]
    await settle(transport, first)
    assert await bodies(transport, "o") == [b"2"]


async def test_a_subscription_declared_meanwhile_gets_what_is_published_within(
    transport: SqliteTransport, mine: sqlite3.Connection
) -> None:
    append_within(transport, mine, [item()])
    mine.commit()
    await transport.declare([SubscriptionSpec(name="new", wants=("a.>",))])
    assert append_within(transport, mine, [item(b"n")]) == [Stored(3)]
    mine.commit()
    assert await bodies(transport, "new") == [b"n"]


async def test_whatever_the_callers_rows_and_texts_look_like(
    transport: SqliteTransport, mine: sqlite3.Connection
) -> None:
    mine.row_factory = lambda cursor, row: dict(zip([c[0] for c in cursor.description], row, strict=True))
    mine.text_factory = bytes
    one = item(b"1", key="k")
    append_within(transport, mine, [one])
    assert surviving(transport, mine, [one.envelope.id_bytes]) == {one.envelope.id_bytes}
    mine.commit()
    assert await bodies(transport, "o") == [b"1"]


@pytest.mark.parametrize("level", ["DEFERRED", "IMMEDIATE"])
async def test_a_connection_that_begins_by_itself_is_fine(
    level: Literal["DEFERRED", "IMMEDIATE"], path: Path, transport: SqliteTransport
) -> None:
    connection = sqlite3.connect(path, isolation_level=level)
    assert append_within(transport, connection, [item()]) == [Stored(2)]
    assert connection.in_transaction
    connection.rollback()
    connection.close()
    assert await bodies(transport) == []


async def test_autocommit_is_refused_and_an_explicit_begin_is_fine(path: Path, transport: SqliteTransport) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(ConfigError, match="BEGIN IMMEDIATE"):
        append_within(transport, connection, [item()])
    connection.execute("BEGIN")
    assert append_within(transport, connection, [item()]) == [Stored(2)]
    connection.execute("COMMIT")
    connection.close()
    assert len(await bodies(transport)) == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="connections have `autocommit` from Python 3.12")
async def test_the_autocommit_attribute_says_the_same(path: Path, transport: SqliteTransport) -> None:
    connect: Any = sqlite3.connect  # Python 3.11 knows no `autocommit`
    on = connect(path, autocommit=True)
    with pytest.raises(ConfigError, match="autocommit"):
        append_within(transport, on, [item()])
    on.close()
    off = connect(path, autocommit=False)
    assert append_within(transport, off, [item()]) == [Stored(2)]
    off.commit()
    off.close()
    assert len(await bodies(transport)) == 1


async def test_a_connection_to_another_database_is_refused(tmp_path: Path, transport: SqliteTransport) -> None:
    empty = sqlite3.connect(tmp_path / "other.db")
    with pytest.raises(ConfigError, match=r"not to shop\.db"):
        append_within(transport, empty, [item()])
    empty.close()
    other = await opened(tmp_path / "twin.db")
    twin = sqlite3.connect(tmp_path / "twin.db")
    with pytest.raises(ConfigError, match=r"not to shop\.db"):
        append_within(transport, twin, [item()])
    assert not twin.in_transaction, "what was begun for it is ended"
    twin.close()
    assert not (await claim(other)).deliveries
    await other.close()


async def test_a_transaction_that_read_too_early_is_told_how_to_begin(
    path: Path, transport: SqliteTransport, mine: sqlite3.Connection
) -> None:
    mine.execute("BEGIN")
    mine.execute("SELECT count(*) FROM shop").fetchall()
    await transport.append([item()])
    (answer,) = append_within(transport, mine, [item()])
    assert isinstance(answer, Refused)
    assert "BEGIN IMMEDIATE" in str(answer.error)
    mine.rollback()
    assert len(await bodies(transport)) == 1


async def test_the_callers_writes_survive_an_event_that_cannot_be_stored(
    transport: SqliteTransport, mine: sqlite3.Connection
) -> None:
    mine.execute("INSERT INTO shop VALUES ('kept')")
    stored, refused = append_within(transport, mine, [item(b"1"), unstorable()])
    assert stored == Stored(2)
    assert isinstance(refused, Refused)
    mine.commit()
    assert mine.execute("SELECT name FROM shop").fetchall() == [("kept",)]
    assert await bodies(transport) == [b"1"]


# -- transactional subscribers


async def taken(transport: SqliteTransport, count: int = 1) -> list[Delivery]:
    await transport.append(items(count))
    return list((await claim(transport)).deliveries)


async def test_effects_settle_and_mark_commit_together(transport: SqliteTransport, mine: sqlite3.Connection) -> None:
    (delivery,) = await taken(transport)
    connection = transport.connect()
    assert transport.try_begin(connection)
    assert transport.done_within(connection, delivery) == Settled()
    connection.execute("INSERT INTO shop VALUES ('done')")
    assert append_within(transport, connection, [item(b"next")]) == [Stored(2)]
    assert mine.execute("SELECT * FROM shop").fetchall() == []
    transport.end(connection, commit=True)
    assert mine.execute("SELECT * FROM shop").fetchall() == [("done",)]
    assert await settle(transport, [delivery]) == ["LeaseLost"]
    assert await bodies(transport) == [b"next"]


async def test_a_run_that_fails_leaves_the_delivery_leased(transport: SqliteTransport) -> None:
    (delivery,) = await taken(transport)
    connection = transport.connect()
    assert transport.try_begin(connection)
    transport.done_within(connection, delivery)
    transport.end(connection, commit=False)
    assert await settle(transport, [delivery]) == ["Settled"]


async def test_effects_happen_once_for_an_event_that_comes_again(transport: SqliteTransport) -> None:
    one = item()
    for expected in (Settled(), Duplicate()):
        await transport.append([one])
        (delivery,) = (await claim(transport)).deliveries
        connection = transport.connect()
        assert transport.try_begin(connection)
        assert transport.done_within(connection, delivery) == expected
        transport.end(connection, commit=True)
        with sqlite3.connect(transport._path) as forget:  # ten minutes later
            forget.executescript("DELETE FROM postbus_seen; DELETE FROM postbus_seen_together")
        forget.close()
    assert not (await claim(transport)).deliveries


async def test_effects_of_a_lost_lease_are_refused(transport: SqliteTransport) -> None:
    (delivery,) = await taken(transport)
    assert await settle(transport, [delivery]) == ["Settled"]
    connection = transport.connect()
    assert transport.try_begin(connection)
    assert isinstance(transport.done_within(connection, delivery), LeaseLost)
    transport.end(connection, commit=False)


async def test_only_one_may_write_at_a_time(transport: SqliteTransport) -> None:
    one, other = transport.connect(), transport.connect()
    assert transport.try_begin(one)
    assert not transport.try_begin(other)
    transport.end(one, commit=True)
    assert transport.try_begin(other)
    transport.end(other, commit=False)


async def test_a_subscriber_that_ends_the_transaction_itself_is_told(transport: SqliteTransport) -> None:
    (delivery,) = await taken(transport)
    connection = transport.connect()
    assert transport.try_begin(connection)
    transport.done_within(connection, delivery)
    connection.rollback()
    with pytest.raises(ConfigError, match="must not commit or roll back"):
        transport.end(connection, commit=True)
    assert await settle(transport, [delivery], Ack()) == ["Settled"]


async def test_a_transaction_can_be_ended_after_the_transport_was_closed(path: Path) -> None:
    transport = await opened(path)
    connection = transport.connect()
    assert transport.try_begin(connection)
    await transport.close()
    transport.end(connection, commit=False)
    again = await opened(path)
    assert await again.append([item()]) == [Stored(1)]
    await again.close()
