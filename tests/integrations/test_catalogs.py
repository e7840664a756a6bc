"""Whoever makes the tables, they are the same: `db apply`, what `db sql` prints, Django's migration and Alembic's."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from desks import sqlalchemy_url
from sqlalchemy import MetaData, create_engine

from postbus.address import Address, Settings
from postbus.drivers import driver_of, perform
from postbus.integrations.sqlalchemy_tables import tables
from postbus.marks import Marks
from postbus.transports.postgres import connect as postgres
from postbus.transports.sqlite import connect as sqlite

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shops" / "django_shop"

# Everything that PostgreSQL knows of a schema, without its numbers.
CATALOGUE = """
SELECT 'column', c.relname || '.' || a.attname, concat_ws(' ', format_type(a.atttypid, a.atttypmod),
    a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid), l.collname)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname ~ %(names)s
UNION ALL SELECT 'relation', c.relname, concat_ws(' ', c.relkind, c.reloptions::text, pg_get_indexdef(c.oid))
FROM pg_class c WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname ~ %(names)s
UNION ALL SELECT 'constraint', r.conname, pg_get_constraintdef(r.oid)
FROM pg_constraint r JOIN pg_class c ON c.oid = r.conrelid
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname ~ %(names)s AND r.contype <> 'n'
UNION ALL SELECT 'function', p.proname, md5(regexp_replace(pg_get_functiondef(p.oid), 'LOCKCLASS', ''))
FROM pg_proc p WHERE p.pronamespace = %(schema)s::regnamespace AND p.proname ~ %(names)s
ORDER BY 1, 2, 3
"""


def catalogue(url: str, schema: str, names: str = "") -> list[tuple[str, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(CATALOGUE, {"schema": schema, "names": names}).fetchall()


def contents(file: Path) -> list[tuple[str, str]]:
    """The same of a SQLite file, its tables of postbus alone."""
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE name LIKE 'postbus%' ORDER BY name")
        return [(name, re.sub(r"\s+", " ", sql or "").strip()) for name, sql in found]


@contextmanager
def database(url: str) -> Iterator[str]:
    name = f"tables_{uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            admin.execute(f"DROP DATABASE {name}".encode())


def migrate(shop: str) -> None:
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("POSTBUS_", "DJANGO_"))}
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    subprocess.run(command, cwd=SHOP, env={**environment, "SHOP_DATABASE": shop}, check=True, timeout=60)


async def test_on_postgres_all_ways_make_the_same(postgres_url: str) -> None:
    with database(postgres_url) as applied, database(postgres_url) as printed, database(postgres_url) as migrated:
        transport = postgres(Address.parse(applied), Settings())
        await transport.apply(lambda _: None)
        with psycopg.connect(printed, autocommit=True) as connection:
            connection.execute(transport.sql().encode())
            version = connection.info.server_version
        expected = catalogue(applied, "postbus")
        assert len(expected) > 100
        assert catalogue(printed, "postbus") == expected
        if version >= 140000:  # Django has no use for older ones
            migrate(migrated)
            assert catalogue(migrated, "postbus") == expected


async def test_on_sqlite_all_ways_make_the_same(tmp_path: Path) -> None:
    transport = sqlite(Address.parse(f"sqlite:///{tmp_path / 'applied.db'}"), Settings())
    await transport.apply(lambda _: None)
    with closing(sqlite3.connect(tmp_path / "printed.db")) as connection:
        connection.executescript(transport.sql())
    migrate(f"sqlite://{tmp_path}/migrated.db")
    expected = contents(tmp_path / "applied.db")
    assert len(expected) > 15
    assert contents(tmp_path / "printed.db") == expected
    assert contents(tmp_path / "migrated.db") == expected


@pytest.mark.parametrize("dialect", ["postgresql", "sqlite"])
def test_alembic_makes_the_table_of_marks_that_a_worker_makes(
    dialect: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = []
    for ours in (True, False):
        namespace, metadata = f"t{uuid4().hex[:12]}", MetaData()
        file = tmp_path / f"{namespace}.db"
        url = request.getfixturevalue("postgres_url") if dialect == "postgresql" else f"sqlite:///{file}"
        engine = create_engine(sqlalchemy_url(url, "psycopg" if dialect == "postgresql" else "pysqlite"))
        with engine.begin() as connection:
            raw = connection.connection.driver_connection
            driver = driver_of(raw)
            assert driver is not None
            if ours:
                perform(driver, raw, Marks(namespace).make(driver.dialect))
            else:
                tables(metadata, namespace=namespace)
                metadata.create_all(connection)
        engine.dispose()
        found.append(parts(url, file, namespace))
    assert found[0] == found[1]


def parts(url: str, file: Path, namespace: str) -> list[tuple[str, ...]]:
    """What the table of marks is made of, whatever it is called."""
    if url.startswith("postgresql"):
        rows = catalogue(url, "public", f"^{namespace}")
        return [tuple(str(word).replace(namespace, "postbus") for word in row) for row in rows]
    with closing(sqlite3.connect(file)) as connection:
        columns = connection.execute(f"PRAGMA table_info('{namespace}_inbox')").fetchall()
        indexes = connection.execute(f"PRAGMA index_xinfo('{namespace}_inbox_when')").fetchall()
        (table,) = connection.execute("SELECT wr FROM pragma_table_list WHERE name LIKE ?", (f"{namespace}%",))
    return [tuple(map(str, row)) for row in (*columns, *indexes, table)]
