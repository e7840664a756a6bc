"""What CLI, dashboard and relays use: reads are single statements, changes go where they are made."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Coroutine, Sequence, Set
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from ...delivery import DeadLetter
from ...envelope import Envelope, micros_of
from ...event import Pattern, is_pattern, valid_name
from ...recording import Record
from ...retrying import Retrying
from ...transport import DeadQuery, EventQuery, StoredEvent, SubscriptionInfo, SubscriptionStats, WorkerInfo
from .declaring import Declaring
from .hastening import Hastening
from .line import Line, Row
from .reading import EVENTS, LETTERS, STATES, STATS, SUBSCRIPTIONS, WORKERS, letter_of, stats_of, stored_of
from .recording import Memoirs
from .routing import unpack_spec
from .schema import Tables
from .spooling import Spooling

__all__ = ["Desk"]

T = TypeVar("T")

# Rows read at once while looking for those that match what SQL cannot say.
_CHUNK = 500
_INFO = msgspec.json.Decoder(WorkerInfo)

_Condition = tuple[str, tuple[Any, ...]]


class Desk(Spooling):
    """The inspectable half of the transport; the other half opens it."""

    _tables: Tables
    _line: Line
    _declaring: Declaring
    _memoirs: Memoirs
    _hastening: Hastening

    def _check(self) -> None:
        raise NotImplementedError

    def _ring(self, ids: Collection[int]) -> None:
        raise NotImplementedError

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
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
        if query.since is not None:
            conditions.append(("e.micros >= %s", (micros_of(query.since),)))
        if query.before is not None:
            conditions.append(("e.micros < %s", (micros_of(query.before),)))
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

    # -- remembered

    async def record(self, records: Sequence[Record]) -> None:
        """See `Recording.record`."""
        self._check()
        await self._whole(self._memoirs.record(records))

    async def records(
        self, kind: str, *, subject: str | None = None, since: str = "", limit: int = 100, after: str | None = None
    ) -> Sequence[Record]:
        """See `Recording.records`."""
        self._check()
        return await self._whole(self._memoirs.records(kind, subject=subject, since=since, limit=limit, after=after))

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

    async def done(self, subscription: str, ids: Sequence[UUID]) -> Set[UUID]:
        """See `Remembering.done`."""
        self._check()
        place = await self._declaring.place(subscription)
        rows = await self._ask(
            "SELECT x.id FROM postbus.done x JOIN postbus.subscription s ON s.public = x.subscription "
            "WHERE s.id = %s::integer AND x.id = ANY (%s::uuid[])", (place.id, list(ids)),
        )  # fmt: skip
        return {id_ for (id_,) in rows}

    async def forget(self, subscription: str, ids: Sequence[UUID]) -> None:
        """See `Remembering.forget`."""
        self._check()
        place = await self._declaring.place(subscription)
        await self._ask(
            "DELETE FROM postbus.done x USING postbus.subscription s WHERE s.public = x.subscription "
            "AND s.id = %s::integer AND x.id = ANY (%s::uuid[])", (place.id, list(ids)),
        )  # fmt: skip

    async def discard(self, subscription: str, ids: Sequence[UUID]) -> int:
        """Delete these dead letters."""
        self._check()
        place = await self._declaring.place(subscription)
        ((count,),) = await self._ask("SELECT postbus.discard(%s::integer, %s::uuid[])", (place.id, list(ids)))
        self._ring([place.id])
        return int(count)

    async def amend(self, subscription: str, letter: UUID, envelope: Envelope) -> bool:
        """See `Amending.amend`."""
        self._check()
        place = await self._declaring.place(subscription)
        values = (
            place.id, letter, envelope.id, envelope.name, envelope.log, envelope.key, envelope.micros,
            envelope.version, envelope.format, envelope.body, envelope.expires_micros,
            msgspec.json.encode(envelope.header_map).decode() if envelope.header_map else None,
        )  # fmt: skip
        ((found,),) = await self._ask(
            "SELECT postbus.amend(%s::integer, %s::uuid, %s::uuid, %s::text, %s::text, %s::text, %s::bigint, "
            "%s::integer, %s::text, %s::bytea, %s::bigint, %s::text)",
            values,
        )
        return bool(found)

    async def retrying(self, subscription: str, *, limit: int = 100, after: str | None = None) -> Sequence[Retrying]:
        """See `Hastening.retrying`."""
        self._check()
        place = await self._declaring.place(subscription)
        return await self._hastening.retrying(place.id, subscription, limit, after)

    async def hasten(self, subscription: str, places: Sequence[str]) -> int:
        """See `Hastening.hasten`."""
        self._check()
        place = await self._declaring.place(subscription)
        count = await self._hastening.hasten(place.id, places)
        self._ring([place.id])
        return count

    async def abandon(self, subscription: str, places: Sequence[str]) -> int:
        """See `Hastening.abandon`."""
        self._check()
        place = await self._declaring.place(subscription)
        count = await self._whole(self._hastening.abandon(place.id, places))
        self._ring([place.id])
        return count

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
    if query.since is not None:
        conditions.append(("d.buried_at >= %s", (query.since,)))
    if query.before is not None:
        conditions.append(("d.buried_at < %s", (query.before,)))
    return conditions
