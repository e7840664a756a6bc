"""As an outbox: what waits is read in order, and forgotten when it is stored elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from typing import Any

from ...spool import Waiting
from .line import Row
from .wire import COLUMNS, Malformed, array, envelope_of, salvaged, storable

__all__ = ["Spooling"]

# Of the oldest, those that the caller has are among the first: so many more are looked at, by their index alone.
_WAITING = """
WITH oldest AS MATERIALIZED (
    SELECT d.seq FROM postbus.delivery d
    WHERE d.subscription = (SELECT s.id FROM postbus.subscription s WHERE s.name = %s AND NOT s.paused) AND WANTED
    ORDER BY d.seq LIMIT %s
), wanted AS MATERIALIZED (
    SELECT seq FROM oldest EXCEPT SELECT unnest(%s::text::bigint[]) ORDER BY seq LIMIT %s
)
SELECT w.seq, greatest(extract(epoch FROM e.due - clock_timestamp()), 0)::double precision, COLUMNS
FROM wanted w JOIN postbus.event e ON e.seq = w.seq ORDER BY w.seq
""".replace("COLUMNS", COLUMNS)

_WITHOUT = (
    "NOT EXISTS (SELECT FROM postbus.event h JOIN unnest(%s::text[], %s::text[]) AS l(topic, key) "
    "ON h.topic = l.topic AND h.key = l.key WHERE h.seq = d.seq)"
)

# The only subscription of its store: nobody else holds these events.
_FORWARDED = """
WITH gone AS (
    DELETE FROM postbus.delivery d USING unnest(%s::text::bigint[]) AS i(seq)
    WHERE d.seq = i.seq AND d.subscription = (SELECT s.id FROM postbus.subscription s WHERE s.name = %s)
    RETURNING d.seq
)
DELETE FROM postbus.event e USING gone g WHERE e.seq = g.seq AND e.keep_until IS NULL
"""

_UNDELIVERABLE = """
WITH gone AS (
    DELETE FROM postbus.delivery d USING unnest(%s::bigint[], %s::text[]) AS i(seq, reason)
    WHERE d.seq = i.seq AND d.subscription = (SELECT s.id FROM postbus.subscription s WHERE s.name = %s)
    RETURNING d.seq, d.subscription, i.reason
)
INSERT INTO postbus.dead (id, subscription, seq, attempts, reason, buried_at)
SELECT postbus.letter_id(clock_timestamp()), g.subscription, g.seq, 1, g.reason, clock_timestamp() FROM gone g
"""


class Spooling:
    """The half of the transport that an outbox uses; the other half asks."""

    def _ask(self, sql: str, values: Sequence[Any] = ()) -> Awaitable[list[Row]]:
        raise NotImplementedError

    async def waiting(
        self, subscription: str, *, limit: int, skip: Collection[int] = (), without: Collection[tuple[str, str]] = ()
    ) -> Sequence[Waiting]:
        """See `Spool.waiting`."""
        lines = [[topic for topic, _ in without], [key for _, key in without]] if without else []
        sql = _WAITING.replace("WANTED", _WITHOUT if without else "true")
        rows = await self._ask(sql, (subscription, *lines, limit + len(skip), array(skip), limit))
        return [_waiting(row) for row in rows]

    async def forwarded(self, subscription: str, numbers: Sequence[int]) -> None:
        """See `Spool.forwarded`."""
        await self._ask(_FORWARDED, (array(numbers), subscription))

    async def undeliverable(self, subscription: str, refused: Sequence[tuple[int, str]]) -> None:
        """See `Spool.undeliverable`."""
        numbers, reasons = [number for number, _ in refused], [storable(reason) for _, reason in refused]
        await self._ask(_UNDELIVERABLE, (numbers, reasons, subscription))


def _waiting(row: Row) -> Waiting:
    number, delay, *columns = row
    try:
        return Waiting(envelope_of(columns), number, delay or 0.0)
    except Malformed as error:
        return Waiting(salvaged(columns), number, 0.0, str(error))
