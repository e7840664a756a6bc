"""What PostgreSQL remembers: one table, kept small by whoever writes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ...clock import Clock
from ...recording import BOUNDS, Record, place_at
from .line import Line
from .schema import Tables

__all__ = ["Memoirs"]

_PUT = """
INSERT INTO postbus.journal
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::bytea[])
ON CONFLICT (kind, place) DO UPDATE SET subject = excluded.subject, body = excluded.body
"""
_READ = (
    "SELECT place, subject, body FROM postbus.journal WHERE kind = %s AND place >= %s AND place < %s "
    "ORDER BY place DESC LIMIT %s"
)
_READ_OF = (
    "SELECT place, subject, body FROM postbus.journal WHERE kind = %s AND place >= %s AND place < %s "
    "AND subject = %s AND subject <> '' ORDER BY place DESC LIMIT %s"
)
# Places are digits first.
_BEYOND = "~"
_OLD = "DELETE FROM postbus.journal WHERE kind = %s AND place < %s"
_MANY = """
DELETE FROM postbus.journal WHERE kind = %s AND place <= (
    SELECT place FROM postbus.journal WHERE kind = %s ORDER BY place DESC LIMIT 1 OFFSET %s
)
"""
# Seconds between two looks at what is too old, and records after which one is due at once.
_EVERY, _OFTEN = 10.0, 500


class Memoirs:
    """See `Recording`."""

    def __init__(self, line: Line, tables: Tables, clock: Clock) -> None:
        self._line = line
        self._tables = tables
        self._wall = clock.time
        self._looked_at = 0.0
        self._since = 0

    async def record(self, records: Sequence[Record]) -> None:
        """See `Recording.record`."""
        columns = zip(*sorted((r.kind, r.place, r.subject, r.body) for r in records), strict=True)
        await self._line.ask(self._tables(_PUT), [list(column) for column in columns])
        self._since += len(records)
        if self._since >= _OFTEN or time.monotonic() >= self._looked_at + _EVERY:
            self._since, self._looked_at = 0, time.monotonic()
            await self._forget()

    async def _forget(self) -> None:
        for kind, bound in BOUNDS.items():
            await self._line.ask(self._tables(_OLD), (kind, place_at(self._wall() - bound.age)))
            await self._line.ask(self._tables(_MANY), (kind, kind, bound.count))

    async def records(
        self, kind: str, *, subject: str | None = None, since: str = "", limit: int = 100, after: str | None = None
    ) -> Sequence[Record]:
        """See `Recording.records`."""
        values = (kind, since, after or _BEYOND, *(() if subject is None else (subject,)), limit)
        rows = await self._line.ask(self._tables(_READ if subject is None else _READ_OF), values)
        return [Record(kind, place, about, bytes(body)) for place, about, body in rows]
