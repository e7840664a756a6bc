"""The tables: their names in a namespace, how they are made, and in which format they are.  Knows no rows.

Tables are states, and a delivery is one row that moves between them; nothing is flagged.  `ready` holds ranges of
event numbers, because events arrive in runs: a batch of a thousand is one row for each subscription.
`event.pending` is how many subscriptions hold it in any state, dead letters included; at none it is deleted.
"""

from __future__ import annotations

import contextlib
import sqlite3
from uuid import uuid4

from ...errors import ConfigError
from ...event import valid_name

__all__ = ["FORMAT", "Tables", "create", "create_workers", "missing", "script"]

# Grows when an older postbus could no longer read the tables.
FORMAT = 1

_NAMES = (
    "meta",
    "subscription",
    "declaration",
    "filling",
    "event",
    "event_kept",
    "seen",
    "seen_together",
    "ready",
    "later",
    "suspect",
    "lease",
    "busy",
    "waiting",
    "dead",
    "dead_of",
    "dead_event",
    "done",
    "done_when",
    "worker",
)

# pending and keep_until come before the wide columns, so that finishing an event reads none of its overflow pages.
_MAIN = """
CREATE TABLE IF NOT EXISTS {meta} (
    one INTEGER PRIMARY KEY CHECK (one = 1), format INTEGER NOT NULL, namespace TEXT NOT NULL, identity BLOB NOT NULL,
    seq INTEGER NOT NULL, fence INTEGER NOT NULL, revision INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS {subscription} (
    id INTEGER PRIMARY KEY, public BLOB NOT NULL, name TEXT UNIQUE, spec BLOB NOT NULL, fingerprint BLOB NOT NULL,
    paused INTEGER NOT NULL DEFAULT 0, declared_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS {declaration} (
    subscription INTEGER NOT NULL, fingerprint BLOB NOT NULL, PRIMARY KEY (subscription, fingerprint)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {filling} (
    subscription INTEGER PRIMARY KEY, next INTEGER NOT NULL, last INTEGER NOT NULL, since INTEGER NOT NULL,
    at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS {event} (
    seq INTEGER PRIMARY KEY, pending INTEGER NOT NULL, keep_until REAL, id BLOB NOT NULL, name TEXT NOT NULL,
    topic TEXT NOT NULL, key TEXT, micros INTEGER NOT NULL, version INTEGER NOT NULL, format TEXT NOT NULL,
    expires INTEGER, headers TEXT, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS {event_kept} ON {event} (keep_until) WHERE pending = 0;
CREATE TABLE IF NOT EXISTS {seen} (bucket INTEGER NOT NULL, id BLOB NOT NULL, PRIMARY KEY (bucket, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {seen_together} (
    bucket INTEGER NOT NULL, low BLOB NOT NULL, high BLOB NOT NULL, ids BLOB NOT NULL,
    PRIMARY KEY (bucket, low)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {ready} (
    subscription INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (subscription, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {later} (
    subscription INTEGER NOT NULL, due REAL NOT NULL, seq INTEGER NOT NULL, scheduled INTEGER NOT NULL,
    attempt INTEGER NOT NULL, failure BLOB, suspect INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (subscription, due, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {suspect} (
    subscription INTEGER NOT NULL, seq INTEGER NOT NULL, attempt INTEGER NOT NULL, failure BLOB,
    PRIMARY KEY (subscription, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {lease} (
    subscription INTEGER NOT NULL, seq INTEGER NOT NULL, owner TEXT NOT NULL, fence INTEGER NOT NULL,
    attempt INTEGER NOT NULL, alone INTEGER NOT NULL, failure BLOB, PRIMARY KEY (subscription, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {busy} (
    subscription INTEGER NOT NULL, topic TEXT NOT NULL, key TEXT NOT NULL, holders INTEGER NOT NULL, parked BLOB,
    PRIMARY KEY (subscription, topic, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {waiting} (
    subscription INTEGER NOT NULL, topic TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, due REAL NOT NULL,
    PRIMARY KEY (subscription, topic, key, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS {dead} (
    id BLOB PRIMARY KEY, subscription INTEGER NOT NULL, seq INTEGER NOT NULL, attempts INTEGER NOT NULL,
    reason TEXT NOT NULL, error TEXT, message TEXT, traceback TEXT, buried_at REAL NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS {dead_of} ON {dead} (subscription, id);
CREATE UNIQUE INDEX IF NOT EXISTS {dead_event} ON {dead} (seq, subscription);
CREATE TABLE IF NOT EXISTS {done} (
    subscription BLOB NOT NULL, id BLOB NOT NULL, done_at REAL NOT NULL, PRIMARY KEY (subscription, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS {done_when} ON {done} (done_at)
"""

_WORKERS = """
CREATE TABLE IF NOT EXISTS {worker} (
    owner TEXT PRIMARY KEY, lease REAL NOT NULL, alive_until REAL NOT NULL, info BLOB) WITHOUT ROWID
"""


class Tables:
    """The quoted table names of one namespace; called with SQL that names tables in braces, returns it complete."""

    def __init__(self, namespace: str) -> None:
        self.namespace = valid_name(namespace, "namespace")
        if namespace.lower().startswith("sqlite"):
            raise ConfigError(
                f"the namespace {namespace!r} is SQLite's own: choose one that does not start with 'sqlite'"
            )
        self._names = {name: f'"{namespace}_{name}"' for name in _NAMES}

    def __call__(self, sql: str, table: str = "meta", **more: str) -> str:
        """Put the names in; `{table}` is the one given, and `more` are other words of ours."""
        return sql.format(**self._names, table=self._names[table], **more)


def create(connection: sqlite3.Connection, tables: Tables) -> bytes:
    """Make what is missing in the main file; return the database's identity.  The caller holds no transaction.

    Raises:
        ConfigError: when the tables are of a newer format, or of a namespace that differs only in case.
        sqlite3.OperationalError: when the file is busy.
    """
    identity = _identity(connection, tables)
    if identity is not None:
        return identity
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in tables(_MAIN).split(";\n"):
            connection.execute(statement)
        connection.execute(
            tables("INSERT OR IGNORE INTO {meta} VALUES (1, ?, ?, ?, 0, 0, 1)"),
            (FORMAT, tables.namespace, uuid4().bytes),
        )
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return create(connection, tables)


def script(tables: Tables) -> str:
    """What `create` does, for people to run."""
    values = f"VALUES (1, {FORMAT}, '{tables.namespace}', randomblob(16), 0, 0, 1)"
    made = tables(_MAIN.rstrip() + ";\nINSERT OR IGNORE INTO {meta} VALUES;").replace("VALUES", values)
    return f"PRAGMA journal_mode = WAL;\nBEGIN IMMEDIATE;{made}\nCOMMIT;"


def missing(connection: sqlite3.Connection, tables: Tables) -> list[str]:
    """Which tables, indexes and columns are not there."""
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        model.executescript(script(tables))
        wanted = _objects(model)
    there = _objects(connection)
    return [
        name if column is None else f"{name}.{column}"
        for name, column in wanted
        if (name, column) not in there and (column is None or (name, None) in there)
    ]


def _objects(connection: sqlite3.Connection) -> list[tuple[str, str | None]]:
    """Tables and indexes, and the columns of each table."""
    found: list[tuple[str, str | None]] = []
    for name, kind in connection.execute("SELECT name, type FROM sqlite_master WHERE name NOT LIKE 'sqlite%'"):
        found.append((name, None))
        if kind == "table":
            found += [(name, column) for _, column, *_ in connection.execute(f'PRAGMA table_info("{name}")')]
    return found


def create_workers(connection: sqlite3.Connection, tables: Tables) -> None:
    """Make what is missing in the sidecar file."""
    connection.execute(tables(_WORKERS))


def _identity(connection: sqlite3.Connection, tables: Tables) -> bytes | None:
    known = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE lower(name) = lower(?)", (f"{tables.namespace}_meta",)
    )
    if known.fetchone() is None:
        return None
    row = connection.execute(tables("SELECT format, namespace, identity FROM {meta}")).fetchone()
    if row is None:
        return None
    format_, namespace, identity = row
    if format_ > FORMAT:
        raise ConfigError(
            f"the tables of namespace {namespace!r} are in format {format_}, and this postbus knows up to {FORMAT}: "
            f"upgrade postbus"
        )
    if namespace != tables.namespace:
        raise ConfigError(
            f"the namespace {tables.namespace!r} differs from {namespace!r} only in case, and SQLite does not tell "
            f"them apart: choose another"
        )
    return bytes(identity)
