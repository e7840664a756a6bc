"""The schema: its name in SQL, and how its tables and functions are made and brought up to date."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable
from importlib.resources import files

from ...errors import ConfigError, TransportBroken, TransportError
from ...event import valid_name
from .line import Ask, Line, Refusal

__all__ = ["FORMAT", "MIGRATIONS", "Tables", "migrate", "missing"]

# What brings the schema from each format to the next; in one transaction.
MIGRATIONS: tuple[tuple[str, ...], ...] = (("tables", "append", "claim", "settle", "letters", "history", "journal"),)
FORMAT = len(MIGRATIONS)

_NAME = re.compile(r"\bpostbus\.")
_OBJECT = re.compile(
    r"^CREATE (?:TABLE|SEQUENCE|VIEW|FUNCTION|PROCEDURE|INDEX|UNIQUE INDEX) (?:postbus\.)?([a-z_]+)", re.MULTILINE
)
_TABLE = re.compile(r"^CREATE TABLE postbus\.([a-z_]+) \(\n(.*?)^\)", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r"^    ([a-z_]+) ", re.MULTILINE)
# For how long a migration waits for a lock before it lets others pass, seconds until it tries again, and how often.
_LOCK_PATIENCE = "1s"
_PAUSE = 0.5
_TRIES = 40


class Tables:
    """One namespace's schema; called with SQL that names tables as `postbus.event`, returns it with the real name."""

    def __init__(self, namespace: str) -> None:
        self.namespace = valid_name(namespace, "namespace")
        if len(namespace) > 63 or namespace.startswith("pg_") or namespace in ("public", "information_schema"):
            raise ConfigError(
                f"namespace {namespace!r} cannot be a schema of its own: expected at most 63 characters, not beginning "
                f"with 'pg_', and neither 'public' nor 'information_schema'"
            )
        # Both names are of letters, digits and '_:.-', so that quoting them is enough.
        self.schema = f'"{namespace}"'
        digest = hashlib.sha256(namespace.encode()).digest()
        self.lock = int.from_bytes(digest[:4], "big", signed=True)
        self.channel = f"postbus_{digest.hex()[:24]}"

    def __call__(self, sql: str) -> str:
        """SQL with the real names."""
        return _NAME.sub(f"{self.schema}.", sql).replace("LOCKCLASS", str(self.lock))

    def migration(self, step: int) -> str:
        """The statements that lead from format `step` to the next."""
        return self("\n".join(_texts(step)))

    def script(self) -> str:
        """All of them, as one transaction for `psql`."""
        steps = "\n".join(self.migration(step) for step in range(FORMAT))
        done = self("UPDATE postbus.meta SET format = FORMAT;").replace("FORMAT", str(FORMAT))
        return f"BEGIN;\nCREATE SCHEMA IF NOT EXISTS {self.schema};\n{steps}\n{done}\nCOMMIT;"


def _texts(step: int) -> list[str]:
    folder = files(__package__)
    return [folder.joinpath(f"{name}.sql").read_text(encoding="utf-8") for name in MIGRATIONS[step]]


async def migrate(line: Line, tables: Tables, told: Callable[[str], None] = lambda _: None) -> None:
    """Make what is missing; several processes may do so at once.

    Raises:
        TransportBroken: when the schema is newer than this program.
        ConfigError: when a schema of that name is somebody else's, or the role's settings are not what we rely on.
    """
    await _refuse_isolation(line)
    for _ in range(_TRIES):
        if await _format(line.ask, tables) == FORMAT:
            return
        try:
            await _migrate(line, tables, told)
        except Refusal as error:
            if not error.again:
                raise
            await asyncio.sleep(_PAUSE)
    raise TransportError(f"{line.door}: a lock on the tables of {tables.schema} could not be had: who holds it?")


async def _migrate(line: Line, tables: Tables, told: Callable[[str], None]) -> None:
    async with line.transaction() as ask:
        await ask("SELECT pg_advisory_xact_lock(%s, 0)", (tables.lock,))
        # Whoever waits for a lock holds up those who come after: let them pass now and then.
        await ask(f"SET LOCAL lock_timeout = '{_LOCK_PATIENCE}'")
        found = await _format(ask, tables)
        if found is None:
            await ask(f"CREATE SCHEMA IF NOT EXISTS {tables.schema}")
        for step in range(found or 0, FORMAT):
            await ask(tables.migration(step))
            told(f"format {step + 1} of {FORMAT} is made in the schema {tables.schema}")
        await ask(tables("UPDATE postbus.meta SET format = %s"), (FORMAT,))


async def missing(line: Line, tables: Tables) -> list[str]:
    """What is not there yet, by name."""
    found = await _format(line.ask, tables)
    if found is None:
        return [f"the schema {tables.schema}"]
    rows = await line.ask(
        "SELECT c.relname, NULL FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s "
        "UNION ALL SELECT p.proname, NULL FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
        "WHERE n.nspname = %s "
        "UNION ALL SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND a.attnum > 0 AND NOT a.attisdropped",
        (tables.namespace,) * 3,
    )
    there = set(rows)
    steps = [f"format {step + 1}" for step in range(found, FORMAT)]
    made = [one for step in range(found) for one in _objects("\n".join(_texts(step)))]
    return steps + [
        ".".join((tables.schema, name, *([column] if column else [])))
        for name, column in made
        if (name, column) not in there and (column is None or (name, None) in there)
    ]


def _objects(sql: str) -> list[tuple[str, str | None]]:
    """What these statements make, and the columns of each table."""
    bodies = dict(_TABLE.findall(sql))
    return [
        (name, column) for name in _OBJECT.findall(sql) for column in (None, *_COLUMN.findall(bodies.get(name, "")))
    ]


async def _refuse_isolation(line: Line) -> None:
    ((isolation,),) = await line.ask("SELECT current_setting('default_transaction_isolation')", ())
    if isolation != "read committed":  # a pooler's, which our own connections cannot change
        raise ConfigError(
            f"{line.door} has default_transaction_isolation = {isolation!r}, and postbus relies on 'read committed': "
            f"say ALTER ROLE ... SET default_transaction_isolation = 'read committed' for the role in the URL"
        )


async def _format(ask: Ask, tables: Tables) -> int | None:
    """The format that the schema is in; None when there is none."""
    ((meta, others),) = await ask(
        "SELECT to_regclass(%s)::text, EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s)",
        (f"{tables.schema}.meta", tables.namespace),
    )
    if meta is None and others:
        raise ConfigError(
            f"the schema {tables.schema} holds tables that are not postbus's: choose another namespace for the bus"
        )
    if meta is None:
        return None
    ((found,),) = await ask(tables("SELECT format FROM postbus.meta"))
    if found > FORMAT:
        raise TransportBroken(
            f"the schema {tables.schema} is in format {found}, and this postbus knows up to {FORMAT}: upgrade postbus"
        )
    return int(found)
