"""Done marks in a database that holds no deliveries: one table, and the scripts on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from .drivers import Script
from .errors import ConfigError
from .event import valid_name

__all__ = ["Dialect", "Marked", "Marks"]

Dialect: TypeAlias = Literal["postgresql", "sqlite"]
Marked: TypeAlias = Literal["new", "done", "busy"]

_KEPT = 7 * 24 * 3600.0
_BATCH = 1000  # as in the statements


@dataclass(frozen=True, slots=True)
class _Words:
    """The statements of one dialect, on the table INBOX."""

    make: tuple[str, ...]
    there: str
    parts: str
    mark: str
    done: str
    forget: str
    prune: str


_WORDS = MappingProxyType(
    {
        "postgresql": _Words(
            make=(
                """SELECT pg_advisory_xact_lock(hashtext('INBOX'))::text""",
                """CREATE TABLE IF NOT EXISTS "INBOX" (subscription text NOT NULL, id uuid NOT NULL,
                    done_at timestamptz NOT NULL, PRIMARY KEY (subscription, id))""",
                """CREATE INDEX IF NOT EXISTS "INBOX_when" ON "INBOX" USING brin (done_at)
                    WITH (pages_per_range = 16)""",
            ),
            there="""SELECT 1 WHERE to_regclass('"INBOX"') IS NOT NULL""",
            parts="""SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass('"INBOX"') AND attnum > 0
                AND NOT attisdropped UNION ALL SELECT 'INBOX_when' WHERE to_regclass('"INBOX_when"') IS NOT NULL""",
            # The lock lasts as long as the transaction: whoever comes second sees it, and need not wait for the row.
            mark="""WITH turn AS MATERIALIZED (
                    SELECT m.*, pg_try_advisory_xact_lock(hashtextextended('INBOX' || m.subscription || m.id, 0)) AS had
                    FROM (SELECT %s::text AS subscription, %s::text AS id) m
                )
                INSERT INTO "INBOX" (subscription, id, done_at)
                SELECT t.subscription, t.id::uuid, clock_timestamp() FROM turn t WHERE t.had
                ON CONFLICT DO NOTHING RETURNING 1""",
            done="""SELECT 1 FROM "INBOX" WHERE subscription = %s AND id = %s::uuid""",
            forget="""DELETE FROM "INBOX" WHERE subscription = %s AND id = %s::uuid RETURNING 1""",
            prune="""DELETE FROM "INBOX" WHERE ctid = ANY (ARRAY(SELECT ctid FROM "INBOX"
                WHERE done_at < clock_timestamp() - %s::double precision * interval '1 second'
                LIMIT 1000 FOR UPDATE SKIP LOCKED)) RETURNING 1""",
        ),
        "sqlite": _Words(
            make=(
                """CREATE TABLE IF NOT EXISTS "INBOX" (subscription TEXT NOT NULL, id BLOB NOT NULL,
                    done_at REAL NOT NULL, PRIMARY KEY (subscription, id)) WITHOUT ROWID""",
                """CREATE INDEX IF NOT EXISTS "INBOX_when" ON "INBOX" (done_at)""",
            ),
            there="""SELECT 1 FROM sqlite_master WHERE name = 'INBOX'""",
            parts="""SELECT name FROM pragma_table_info('INBOX')
                UNION ALL SELECT name FROM sqlite_master WHERE name = 'INBOX_when'""",
            mark="""INSERT OR IGNORE INTO "INBOX" (subscription, id, done_at)
                VALUES (?, ?, NOW)""",
            done="""SELECT 1 FROM "INBOX" WHERE subscription = ? AND id = ?""",
            forget="""DELETE FROM "INBOX" WHERE subscription = ? AND id = ?""",
            prune="""DELETE FROM "INBOX" WHERE (subscription, id) IN (SELECT subscription, id FROM "INBOX"
                WHERE done_at < NOW - ? LIMIT 1000)""",
        ),
    }
)


class Marks:
    """The table `<namespace>_inbox` in the connection's default schema.

    Args:
        keep: seconds for which marks are kept.
    """

    def __init__(self, namespace: str, *, keep: float = _KEPT) -> None:
        self.table = f"{valid_name(namespace, 'namespace')}_inbox"
        if len(self.table) > 63 - len("_when"):
            raise ConfigError(f"namespace {namespace!r} is too long for a table's name: expected at most 52 characters")
        self._keep = keep

    def sql(self, dialect: Dialect) -> Sequence[str]:
        """What makes it, for who runs migrations of their own."""
        return [self._named(statement) for statement in _WORDS[dialect].make]

    def make(self, dialect: Dialect) -> Script[None]:
        """Make the table; where it is there, no right to make it is needed."""
        rows: list[Any] = yield self._step(dialect, _WORDS[dialect].there, ())
        if not rows:
            for statement in _WORDS[dialect].make:
                yield self._step(dialect, statement, ())

    def missing(self, dialect: Dialect) -> Script[list[str]]:
        """What of it is not there: the table, else columns and the index."""
        rows: list[Any] = yield self._step(dialect, _WORDS[dialect].parts, ())
        there = {name for (name,) in rows}
        columns = [name for name in ("subscription", "id", "done_at") if name not in there]
        if len(columns) == 3:
            return [self.table]
        gone = [f"{self.table}.{name}" for name in columns]
        return gone if f"{self.table}_when" in there else [*gone, f"{self.table}_when"]

    def mark(self, dialect: Dialect, subscription: str, id_: bytes) -> Script[Marked]:
        """Mark it as done: "new", or "done" when it was before, or "busy" when another transaction is about to."""
        if (yield from self._changed(dialect, _WORDS[dialect].mark, (subscription, _id(dialect, id_)))):
            return "new"
        return "done" if (yield from self.done(dialect, subscription, id_)) else "busy"

    def done(self, dialect: Dialect, subscription: str, id_: bytes) -> Script[bool]:
        """Whether it is marked."""
        rows: list[Any] = yield self._step(dialect, _WORDS[dialect].done, (subscription, _id(dialect, id_)))
        return bool(rows)

    def forget(self, dialect: Dialect, subscription: str, id_: bytes) -> Script[bool]:
        """Take a mark away, so that it may be done again; whether there was one."""
        return bool((yield from self._changed(dialect, _WORDS[dialect].forget, (subscription, _id(dialect, id_)))))

    def prune(self, dialect: Dialect) -> Script[bool]:
        """Delete some marks that are too old; whether there may be more."""
        return (yield from self._changed(dialect, _WORDS[dialect].prune, (self._keep,))) == _BATCH

    def _changed(self, dialect: Dialect, sql: str, values: Sequence[Any]) -> Script[int]:
        """How many rows a statement changed."""
        changed: Any = yield self._step(dialect, sql, values, counts=True)
        return changed if isinstance(changed, int) else len(changed)

    def _step(self, dialect: Dialect, sql: str, values: Sequence[Any], *, counts: bool = False) -> Any:
        named = self._named(sql)
        if dialect == "postgresql":
            return named, values

        def run(connection: sqlite3.Connection) -> Any:
            cursor = connection.cursor()
            cursor.row_factory = None
            found = cursor.execute(named, values)
            return found.rowcount if counts else found.fetchall()

        return run

    def _named(self, sql: str) -> str:
        # SQLite has seconds since 1970 only in whole ones; this is what it has finer.
        return sql.replace("INBOX", self.table).replace("NOW", "(strftime('%J', 'now') * 86400.0 - 210866760000.0)")


def _id(dialect: Dialect, id_: bytes) -> Any:
    return id_.hex() if dialect == "postgresql" else id_
