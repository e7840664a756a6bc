"""Publishing in `transaction.atomic()` does what GUARANTEES 6 and 7 say, on PostgreSQL and SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import django
import pytest
from django.conf import settings
from django.db import connections, transaction

from postbus import Bus, ConfigError, DeliveryContext, event
from postbus.integrations.django import database_url, tidy_connections

if not settings.configured:
    settings.configure(DATABASES={}, INSTALLED_APPS=[], USE_TZ=True)
    django.setup()


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@pytest.fixture(params=["sqlite", "postgresql"])
def alias(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> Iterator[str]:
    name = f"db_{uuid4().hex[:8]}"
    if request.param == "sqlite":
        database = {
            "ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "shop.db"),
            "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        }  # fmt: skip
    else:
        place = urlsplit(postgres_url)
        database = {
            "ENGINE": "django.db.backends.postgresql", "NAME": place.path.removeprefix("/"), "USER": place.username,
            "PASSWORD": place.password, "HOST": place.hostname, "PORT": place.port,
        }  # fmt: skip
    databases = connections.settings
    databases[name] = connections.configure_settings({"default": {}, name: database})[name]
    with connections[name].cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name} (id TEXT)")
    yield name
    with connections[name].cursor() as cursor:
        cursor.execute(f"DROP TABLE {name}")
    connections[name].close()
    del databases[name], connections[name]


@pytest.fixture
def bus(alias: str) -> Iterator[Bus]:
    bus = Bus(database_url(alias), namespace=f"t{uuid4().hex[:8]}", transactions=alias, middleware=[tidy_connections])
    bus.add_subscriber(seen, OrderPlaced, name="receipts")
    with bus:
        yield bus


def seen(event: OrderPlaced) -> None:
    """Nobody runs it here."""


def backlog(bus: Bus) -> int:
    return bus.run_sync(bus.stats())["receipts"].backlog


def insert(alias: str, order: str) -> None:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"INSERT INTO {alias} VALUES (%s)", [order])


def rows(alias: str) -> list[str]:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT id FROM {alias} ORDER BY id")
        return [row[0] for row in cursor.fetchall()]


def test_an_event_is_committed_with_what_it_tells_of(bus: Bus, alias: str) -> None:
    with transaction.atomic(using=alias):
        insert(alias, "o-1")
        bus.publish_sync(OrderPlaced("o-1"), within=alias)
        assert backlog(bus) == 0
    assert (rows(alias), backlog(bus)) == (["o-1"], 1)


def test_a_rollback_takes_the_event_along(bus: Bus, alias: str) -> None:
    with pytest.raises(OSError, match="no"), transaction.atomic(using=alias):  # noqa: PT012 - all of it is rolled back
        insert(alias, "o-1")
        bus.publish_sync(OrderPlaced("o-1"), within=alias)
        raise OSError("no")
    assert (rows(alias), backlog(bus)) == ([], 0)


def test_a_savepoint_takes_its_events_and_hooks_along(bus: Bus, alias: str) -> None:
    after: list[str] = []
    bus.add_handler(lambda event: after.append(event.order_id), OrderPlaced, after_commit=True)
    with transaction.atomic(using=alias):
        bus.publish_sync(OrderPlaced("outer"), within=alias)
        with pytest.raises(OSError, match="no"), transaction.atomic(using=alias):  # noqa: PT012 - as above
            bus.publish_sync(OrderPlaced("inner, rolled back"), within=alias)
            raise OSError("no")
        with transaction.atomic(using=alias):
            bus.publish_sync(OrderPlaced("inner, released"), within=alias)
        bus.publish_sync(OrderPlaced("outer again"), within=connections[alias])
        assert after == []
    assert sorted(after) == ["inner, released", "outer", "outer again"]
    assert backlog(bus) == 3


def test_an_error_of_a_handler_takes_the_order_back(bus: Bus, alias: str) -> None:
    def sold_out(event: OrderPlaced) -> None:
        insert(alias, "from the handler")
        raise OSError("sold out")

    bus.add_handler(sold_out, OrderPlaced)
    with pytest.raises(OSError, match="sold out"), transaction.atomic(using=alias):  # noqa: PT012 - as above
        insert(alias, "o-1")
        bus.publish_sync(OrderPlaced("o-1"), within=alias)
    assert (rows(alias), backlog(bus)) == ([], 0)


def test_without_a_transaction_nothing_is_published(bus: Bus, alias: str) -> None:
    with pytest.raises(ConfigError, match=r"transaction\.atomic"):
        bus.publish_sync(OrderPlaced("o-1"), within=alias)
    assert backlog(bus) == 0


def test_an_unknown_alias_names_the_known_ones(bus: Bus, alias: str) -> None:
    with pytest.raises(ConfigError, match=alias):
        bus.publish_sync(OrderPlaced("o-1"), within="elsewhere")
    with pytest.raises(ConfigError, match=alias):
        Bus("memory://", transactions="elsewhere")


def test_another_database_than_the_tables_is_refused(alias: str, tmp_path: Path) -> None:
    with Bus(f"sqlite:///{tmp_path}/other.db") as other, transaction.atomic(using=alias):
        with pytest.raises(ConfigError):
            other.publish_sync(OrderPlaced("o-1"), within=alias)
        insert(alias, "goes on")
    assert rows(alias) == ["goes on"]


def test_a_transactional_subscriber_works_in_atomic_and_once(alias: str) -> None:
    bus = Bus(database_url(alias), namespace=f"t{uuid4().hex[:8]}", transactions=alias, middleware=[tidy_connections])

    @bus.subscriber(OrderPlaced, transactional=True)
    def invoices(event: OrderPlaced, context: DeliveryContext) -> None:
        assert context.tx == alias
        assert connections[alias].in_atomic_block
        insert(alias, f"{event.order_id} {context.attempt}")
        if context.attempt == 1:
            raise OSError("the first try fails, and leaves nothing")

    with bus:
        bus.publish_sync(OrderPlaced("o-1"))
        bus.run_sync(bus.drain())
        assert rows(alias) == ["o-1 2"]
        assert bus.run_sync(bus.stats()).dead == 0


def test_connections_that_broke_are_closed_around_subscribers(alias: str) -> None:
    bus = Bus(database_url(alias), namespace=f"t{uuid4().hex[:8]}", middleware=[tidy_connections])
    kept: list[object] = []

    @bus.subscriber(OrderPlaced)
    def looks(event: OrderPlaced) -> None:
        connections[alias].ensure_connection()
        kept.append(connections[alias].connection)

    with bus:
        bus.publish_sync(OrderPlaced("o-1"))
        bus.run_sync(bus.drain())
    (connection,) = kept
    # CONN_MAX_AGE is 0: as after a request, nothing is left open in the thread.
    if isinstance(connection, sqlite3.Connection):
        with pytest.raises(sqlite3.ProgrammingError):
            connection.total_changes  # noqa: B018
    else:
        assert connection.closed  # type: ignore[attr-defined]
