"""What CLI and dashboard use: reads are single statements, changes go where they are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from ...delivery import DeadLetter
from ...event import Pattern, is_pattern, valid_name
from ...transport import DeadQuery, EventQuery, StoredEvent, SubscriptionInfo, SubscriptionStats, WorkerInfo
from .declaring import Declaring
from .line import Line, Row
from .reading import EVENTS, LETTERS, STATES, STATS, SUBSCRIPTIONS, WORKERS, letter_of, stats_of, stored_of
from .routing import unpack_spec
from .schema import Tables

__all__ = ["Desk"]

# Rows read at once while looking for those that match what SQL cannot say.
_CHUNK = 500
_INFO = msgspec.json.Decoder(WorkerInfo)

_Condition = tuple[str, tuple[Any, ...]]


class Desk:
    """The inspectable half of the transport; the other half opens it."""

    _tables: Tables
    _line: Line
    _declaring: Declaring

    def _check(self) -> None:
        raise NotImplementedError

    def _ring(self, ids: Collection[int]) -> None:
        raise NotImplementedError

    async def _ask(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        self._check()
        return await self._line.ask(self._tables(sql), values)

    # -- seen

    async def ping(self) -> float:
        """Seconds for one round trip."""
        began = time.perf_counter()
        await self._ask("SELECT 1")
        return time.perf_counter() - began

    async def subscriptions(self) -> Sequence[SubscriptionInfo]:
        """Every durable subscription, by name."""
        return [
            SubscriptionInfo(id=str(public), spec=unpack_spec(spec), paused=paused, declared_at=declared_at)
            for public, spec, paused, declared_at in await self._ask(SUBSCRIPTIONS)
        ]

    async def stats(self, subscriptions: Collection[str] | None = None) -> Sequence[SubscriptionStats]:
        """How these (or all) subscriptions stand, by name."""
        workers = await self.workers()
        names = None if subscriptions is None else list(subscriptions)
        return [stats_of(row, workers) for row in await self._ask(STATS, (names, names))]

    async def workers(self) -> Sequence[WorkerInfo]:
        """The workers that have beaten within their lease."""
        return [_INFO.decode(info) for (info,) in await self._ask(WORKERS)]

    async def events(self, query: EventQuery, *, limit: int = 100, after: str | None = None) -> Sequence[StoredEvent]:
        """Stored events, newest first."""
        conditions: list[_Condition] = []
        if after is not None:
            conditions.append(("e.seq < %s", (int(after),)))
        if query.id is not None:
            conditions.append(("e.id = %s", (query.id,)))
        if query.key is not None:
            conditions.append(("e.key = %s", (query.key,)))
        if query.correlation_id is not None:
            conditions.append(("e.headers ->> 'correlationid' = %s", (query.correlation_id,)))
        rows = await self._pages(EVENTS, conditions, _named(conditions, query.name, 2), limit, "e.seq < %s")
        states: dict[int, dict[str, str]] = {row[0]: {} for row in rows}
        for seq, name, state in await self._ask(STATES, (list(states), list(states))):
            states[seq][name] = state
        return [stored_of(row, states[row[0]]) for row in rows]

    async def dead(
        self, subscription: str | None, query: DeadQuery, *, limit: int = 100, after: UUID | None = None
    ) -> Sequence[DeadLetter]:
        """Dead letters, oldest burial first: their ids grow with time."""
        self._check()
        conditions: list[_Condition] = [("s.name IS NOT NULL", ())]
        if subscription is not None:
            conditions.append(("d.subscription = %s", ((await self._declaring.place(subscription)).id,)))
        if after is not None:
            conditions.append(("d.id > %s", (after,)))
        conditions += _wanted(query)
        rows = await self._pages(LETTERS, conditions, _named(conditions, query.name, 7), limit, "d.id > %s")
        return [letter_of(row) for row in rows]

    async def _pages(
        self,
        select: str,
        conditions: Sequence[_Condition],
        matches: Callable[[Row], bool] | None,
        limit: int,
        behind: str,
    ) -> list[Row]:
        """Rows that match, read in chunks where SQL cannot say which."""
        found: list[Row] = []
        place: list[_Condition] = []
        while len(found) < limit:
            count = limit - len(found) if matches is None else _CHUNK
            every = [*conditions, *place]
            where = " AND ".join(text for text, _ in every) or "true"
            values = [value for _, some in every for value in some]
            rows = await self._ask(select.replace("WHERE true", f"WHERE {where}"), (*values, count))
            found += rows if matches is None else filter(matches, rows)
            if len(rows) < count:
                break
            place = [(behind, (rows[-1][0],))]
        return found[:limit]

    # -- mended

    async def replay(self, subscription: str, ids: Sequence[UUID]) -> int:
        """Make these dead letters ready again."""
        self._check()
        place = await self._declaring.place(subscription)
        ((count,),) = await self._ask("SELECT postbus.replay(%s::integer, %s::uuid[])", (place.id, list(ids)))
        self._ring([place.id])
        return int(count)

    async def discard(self, subscription: str, ids: Sequence[UUID]) -> int:
        """Delete these dead letters."""
        self._check()
        place = await self._declaring.place(subscription)
        ((count,),) = await self._ask("SELECT postbus.discard(%s::integer, %s::uuid[])", (place.id, list(ids)))
        self._ring([place.id])
        return int(count)

    async def pause(self, subscription: str) -> None:
        """Refuse claims."""
        self._check()
        await self._declaring.pause(subscription, paused=True)

    async def resume(self, subscription: str) -> None:
        """Allow claims."""
        self._check()
        await self._declaring.pause(subscription, paused=False)

    async def rename(self, subscription: str, to: str) -> None:
        """Give the subscription a new name."""
        self._check()
        await self._declaring.rename(subscription, valid_name(to, "subscription"))

    async def retire(self, subscription: str) -> int:
        """Delete the subscription with all it holds."""
        self._check()
        return await self._declaring.retire(subscription)

    async def seek(self, subscription: str, to: datetime) -> int:
        """Deliver stored events again, to this subscription only."""
        self._check()
        return await self._declaring.seek(subscription, to)


def _named(conditions: list[_Condition], name: str | None, column: int) -> Callable[[Row], bool] | None:
    """Only events of this name; the answer is a test of rows where it is a pattern, which SQL cannot say."""
    if name is None:
        return None
    if not is_pattern(name):
        conditions.append(("e.name = %s", (name,)))
        return None
    pattern = Pattern(name)
    return lambda row: pattern.matches(row[column])


def _wanted(query: DeadQuery) -> list[_Condition]:
    conditions: list[_Condition] = []
    if query.ids is not None:
        ids = list(query.ids)
        conditions.append(("(d.id = ANY (%s::uuid[]) OR e.id = ANY (%s::uuid[]))", (ids, ids)))
    if query.key is not None:
        conditions.append(("e.key = %s", (query.key,)))
    if query.error is not None:
        where = "strpos(lower(concat(d.failure ->> 'error', chr(10), d.failure ->> 'message')), lower(%s)) > 0"
        conditions.append((where, (query.error,)))
    if query.reason is not None:
        conditions.append(("strpos(lower(d.reason), lower(%s)) > 0", (query.reason,)))
    if query.before is not None:
        conditions.append(("d.buried_at < %s", (query.before,)))
    return conditions
