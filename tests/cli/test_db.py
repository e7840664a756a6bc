"""`postbus db` prints, makes and checks tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from commands import postbus

APP = """
from postbus import Bus
bus = Bus({url!r}, namespace={namespace!r}, outbox={outbox!r})
"""


@pytest.fixture
def namespace() -> str:
    return f"t{uuid4().hex[:12]}"


def app(folder: Path, url: str, namespace: str, outbox: str | None = None) -> tuple[str, ...]:
    (folder / f"{namespace}_app.py").write_text(APP.format(url=url, namespace=namespace, outbox=outbox))
    return ("--app-dir", str(folder), f"{namespace}_app:bus")


def test_what_is_printed_makes_the_tables_of_postgres(tmp_path: Path, postgres_url: str, namespace: str) -> None:
    named = app(tmp_path, postgres_url, namespace)
    before = postbus("db", "check", *named)
    assert (before.code, before.out) == (4, f'transport: missing the schema "{namespace}"\n')
    printed = postbus("db", "sql", *named)
    assert printed.code == 0, printed.err
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(printed.out.encode())
        after = postbus("db", "check", *named)
        assert (after.code, after.out) == (0, "transport: all there\n"), after.err
        connection.execute(f'DROP FUNCTION "{namespace}".discard'.encode())
        connection.execute(f'DROP PROCEDURE "{namespace}".append_and_notify'.encode())
        connection.execute(f'DROP INDEX "{namespace}".delivery_leased'.encode())
        connection.execute(f'ALTER TABLE "{namespace}".event DROP COLUMN headers CASCADE'.encode())
        connection.execute(f'DROP TABLE "{namespace}".journal'.encode())
    less = postbus("db", "check", *named)
    assert less.code == 4
    gone = ("event.headers", "stored", "delivery_leased", "append_and_notify", "discard", "journal", "journal_subject")
    named_so = ", ".join(f'"{namespace}".{name}' for name in gone)
    assert less.out == f"transport: missing {named_so}\n"


def test_tables_are_made_with_a_word_on_each_step(tmp_path: Path, postgres_url: str, namespace: str) -> None:
    named = app(tmp_path, postgres_url, namespace, outbox=f"sqlite:///{tmp_path}/outbox.db")
    done = postbus("db", "apply", *named)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f'transport: format 1 of 1 is made in the schema "{namespace}"',
        "outbox: the tables are made in outbox.db",
    ]
    assert postbus("db", "apply", *named).out.splitlines() == ["transport: nothing to do", "outbox: nothing to do"]
    assert postbus("db", "check", *named).code == 0


def test_what_is_printed_makes_the_tables_of_sqlite(tmp_path: Path, namespace: str) -> None:
    named = app(tmp_path, f"sqlite:///{tmp_path}/shop.db", namespace)
    assert postbus("db", "check", *named).out == "transport: missing the file shop.db\n"
    printed = postbus("db", "sql", *named).out
    connection = sqlite3.connect(tmp_path / "shop.db")
    connection.executescript(printed)
    assert postbus("db", "check", *named).code == 0
    connection.execute(f'DROP TABLE "{namespace}_dead"')
    connection.execute(f'ALTER TABLE "{namespace}_event" DROP COLUMN headers')
    less = postbus("db", "check", *named)
    gone = ("event.headers", "dead", "dead_of", "dead_event")
    assert (less.code, less.out) == (4, f"transport: missing {', '.join(f'{namespace}_{name}' for name in gone)}\n")
    connection.close()


MARKING = """
import psycopg, sqlite3
from contextlib import closing
from postbus import Bus
bus = Bus({url!r}, namespace={namespace!r}, transactions=lambda: {connection})
"""


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_the_table_of_marks_is_printed_made_and_checked_where_it_is_needed(
    tmp_path: Path, redis_url: str, namespace: str, dialect: str, request: pytest.FixtureRequest
) -> None:
    connection = f"closing(sqlite3.connect({str(tmp_path / 'shop.db')!r}))"
    if dialect == "postgresql":
        connection = f"psycopg.connect({request.getfixturevalue('postgres_url')!r})"
    (tmp_path / f"{namespace}_app.py").write_text(
        MARKING.format(url=redis_url, namespace=namespace, connection=connection)
    )
    named = ("--app-dir", str(tmp_path), f"{namespace}_app:bus")
    assert postbus("db", "check", *named).out == f"marks: missing {namespace}_inbox\n"
    printed = postbus("db", "sql", *named)
    assert f'CREATE TABLE IF NOT EXISTS "{namespace}_inbox"' in printed.out, printed.err
    execute(tmp_path, dialect, request, printed.out)
    assert postbus("db", "check", *named).out == "marks: all there\n"
    execute(tmp_path, dialect, request, f'DROP INDEX "{namespace}_inbox_when"')
    execute(tmp_path, dialect, request, f'ALTER TABLE "{namespace}_inbox" RENAME done_at TO at')
    less = postbus("db", "check", *named)
    assert (less.code, less.out) == (4, f"marks: missing {namespace}_inbox.done_at, {namespace}_inbox_when\n")


def test_the_deliveries_own_database_needs_no_table_of_marks(tmp_path: Path, postgres_url: str, namespace: str) -> None:
    connection = f"psycopg.connect({postgres_url!r})"
    (tmp_path / f"{namespace}_app.py").write_text(
        MARKING.format(url=postgres_url, namespace=namespace, connection=connection)
    )
    named = ("--app-dir", str(tmp_path), f"{namespace}_app:bus")
    assert postbus("db", "apply", *named).out.endswith("marks: nothing to do\n")
    assert postbus("db", "check", *named).out == "transport: all there\nmarks: all there\n"
    assert "_inbox" not in postbus("db", "sql", *named).out


def execute(folder: Path, dialect: str, request: pytest.FixtureRequest, sql: str) -> None:
    if dialect == "sqlite":
        with closing(sqlite3.connect(folder / "shop.db")) as connection:
            connection.executescript(sql)
    else:
        with psycopg.connect(request.getfixturevalue("postgres_url"), autocommit=True) as server:
            server.execute(sql.encode())


def test_a_transport_without_tables_says_so(tmp_path: Path, namespace: str) -> None:
    result = postbus("db", "check", *app(tmp_path, "memory://", namespace))
    assert result.code == 2
    assert "has no tables" in result.err
