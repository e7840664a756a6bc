"""The schema: its name in SQL, and how its tables and functions are made and brought up to date."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files

from ...errors import ConfigError, TransportBroken
from ...event import valid_name
from .line import Ask, Line

__all__ = ["FORMAT", "MIGRATIONS", "Tables", "migrate"]

# What brings the schema from each format to the next; in one transaction.
MIGRATIONS: tuple[tuple[str, ...], ...] = (("tables", "append", "claim", "settle", "letters"),)
FORMAT = len(MIGRATIONS)

_NAME = re.compile(r"\bpostbus\.")


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
        folder = files(__package__)
        texts = [folder.joinpath(f"{name}.sql").read_text(encoding="utf-8") for name in MIGRATIONS[step]]
        return self("\n".join(texts))


async def migrate(line: Line, tables: Tables) -> None:
    """Make what is missing; several processes may do so at once.

    Raises:
        TransportBroken: when the schema is newer than this program.
        ConfigError: when a schema of that name is somebody else's.
    """
    if await _format(line.ask, tables) == FORMAT:
        return
    async with line.transaction() as ask:
        await ask("SELECT pg_advisory_xact_lock(%s, 0)", (tables.lock,))
        found = await _format(ask, tables)
        if found is None:
            await ask(f"CREATE SCHEMA IF NOT EXISTS {tables.schema}")
        for step in range(found or 0, FORMAT):
            await ask(tables.migration(step))
        await ask(tables("UPDATE postbus.meta SET format = %s"), (FORMAT,))


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
