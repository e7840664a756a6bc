"""Retries: the statements that show them, make them due at once, and let go of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from ...retrying import Retrying
from .line import Line
from .schema import Tables
from .wire import COLUMNS, failure_of, salvaged

__all__ = ["Hastening"]

_WAITS = "d.subscription = %s::integer AND d.state = 3 AND NOT d.delayed AND d.due > clock_timestamp()"
_LIST = """
SELECT d.seq, d.due, d.attempt, d.failure::text, COLUMNS
FROM postbus.delivery d JOIN postbus.event e ON e.seq = d.seq
WHERE IT WAITS AND (d.due, d.seq) > (%s::timestamptz, %s::bigint) ORDER BY d.due, d.seq LIMIT %s
""".replace("COLUMNS", COLUMNS).replace("IT WAITS", _WAITS)
_HASTEN = """
UPDATE postbus.delivery d SET due = clock_timestamp() WHERE IT WAITS AND d.seq = ANY (%s::bigint[]) RETURNING d.seq
""".replace("IT WAITS", _WAITS)
_ABANDON = """
DELETE FROM postbus.delivery d WHERE IT WAITS AND d.seq = ANY (%s::bigint[]) RETURNING d.seq, d.lane
""".replace("IT WAITS", _WAITS)


class _Spot(NamedTuple):
    """Where a retry is in the order of what is due later; its text is the retry's place."""

    due: datetime
    seq: int

    def __str__(self) -> str:
        return f"{self.due.astimezone(UTC).isoformat()}/{self.seq}"

    @classmethod
    def parse(cls, place: str) -> _Spot:
        due, _, seq = place.partition("/")
        return cls(datetime.fromisoformat(due), int(seq))


class Hastening:
    """See `postbus.retrying.Hastening`; a subscription is the number it has here."""

    def __init__(self, line: Line, tables: Tables) -> None:
        self._line = line
        self._tables = tables

    async def retrying(self, subscription: int, name: str, limit: int, after: str | None) -> list[Retrying]:
        """What waits for another attempt, the soonest first."""
        behind = _Spot(datetime.fromtimestamp(0, UTC), 0) if after is None else _Spot.parse(after)
        rows = await self._line.ask(self._tables(_LIST), (subscription, *behind, limit))
        return [
            Retrying(
                place=str(_Spot(due, seq)),
                envelope=salvaged(columns),
                subscription=name,
                attempt=attempt,
                due_at=due.astimezone(UTC),
                failure=failure_of(failed),
            )
            for seq, due, attempt, failed, *columns in rows
        ]

    async def hasten(self, subscription: int, places: Sequence[str]) -> int:
        """Make these due now."""
        return len(await self._line.ask(self._tables(_HASTEN), (subscription, _seqs(places))))

    async def abandon(self, subscription: int, places: Sequence[str]) -> int:
        """Let go of these for good, and let the keys go on that they held."""
        async with self._line.transaction() as ask:
            await ask(self._tables("SELECT pg_advisory_xact_lock(LOCKCLASS, %s::integer)"), (subscription,))
            gone = await ask(self._tables(_ABANDON), (subscription, _seqs(places)))
            lanes = [lane for _, lane in gone if lane is not None]
            if lanes:
                values = ([subscription] * len(lanes), lanes)
                await ask(self._tables("SELECT postbus.advance(%s::integer[], %s::text[], clock_timestamp())"), values)
            if gone:
                await ask(self._tables("SELECT postbus.finish(%s::bigint[])"), ([seq for seq, _ in gone],))
        return len(gone)


def _seqs(places: Sequence[str]) -> list[int]:
    return sorted({_Spot.parse(place).seq for place in places})
