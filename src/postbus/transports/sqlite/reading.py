"""What can be seen, on a connection that only reads.  Each method is one short read transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from ...delivery import DeadLetter, Failure
from ...envelope import micros_of
from ...errors import UnknownSubscription
from ...event import Pattern, is_pattern
from ...transport import DeadQuery, EventQuery, StoredEvent, SubscriptionInfo, SubscriptionStats, WorkerInfo
from .liveness import Roll, info_of
from .routing import unpack_spec
from .rows import COLUMNS, salvaged
from .schema import Tables
from .spans import matching

__all__ = ["Present", "Reading", "who_is_there"]

# Rows read at once while looking for those that match what SQL cannot say.
_CHUNK = 500
_CORRELATED = (
    "CASE WHEN typeof(headers) = 'text' AND json_valid(headers) THEN json_extract(headers, '$.correlationid') END = ?"
)
_EVENT_COLUMNS = ", ".join(f"e.{column}" for column in COLUMNS.split(", "))

_Condition = tuple[str, tuple[Any, ...]]


class Present(NamedTuple):
    """Who lives: owners whose leases last, and workers that have beaten."""

    owners: set[str]
    workers: list[WorkerInfo]


class _Search:
    """What is looked for: `select` with its order, conditions, and how to go on behind a row's first column."""

    def __init__(self, select: str, conditions: list[_Condition], behind: str) -> None:
        self.select = select
        self.conditions = conditions
        self.behind = behind
        self.matches: Callable[[Sequence[Any]], bool] | None = None

    def named(self, name: str | None, column: str, place: int) -> None:
        """Only events of this name, or of a pattern, which SQL cannot say."""
        if name is None:
            return
        if not is_pattern(name):
            self.conditions.append((f"{column} = ?", (name,)))
            return
        pattern = Pattern(name)
        self.matches = lambda row: isinstance(row[place], str) and pattern.matches(row[place])


class Reading:
    """The statements of inspection, on `connection`, whose text factory must not raise: rows may hold anything."""

    def __init__(self, tables: Tables, connection: sqlite3.Connection, now: Callable[[], float]) -> None:
        self._tables = tables
        self.connection = connection
        connection.create_function("folded", 1, _folded, deterministic=True)
        self._now = now

    def ping(self) -> None:
        """One round trip."""
        self._all("SELECT seq FROM {meta}")

    def subscriptions(self) -> list[SubscriptionInfo]:
        """Every subscription, by name."""
        rows = self._all(
            "SELECT public, spec, paused, declared_at FROM {subscription} WHERE name IS NOT NULL ORDER BY name"
        )
        return [
            SubscriptionInfo(
                id=str(UUID(bytes=public)),
                spec=unpack_spec(spec),
                paused=bool(paused),
                declared_at=_moment(declared_at),
            )
            for public, spec, paused, declared_at in rows
        ]

    # -- how subscriptions stand

    def stats(self, names: Collection[str] | None, present: Present) -> list[SubscriptionStats]:
        """Exact counts, all of one moment; what a dead worker holds is backlog, though nobody swept it yet."""
        self.connection.execute("BEGIN")
        try:
            rows = self._all("SELECT id, name, paused FROM {subscription} WHERE name IS NOT NULL ORDER BY name")
            return [
                self._stats_of(id_, name, paused=bool(paused), present=present)
                for id_, name, paused in rows
                if names is None or name in names
            ]
        finally:
            self.connection.execute("COMMIT")

    def _stats_of(self, id_: int, name: str, *, paused: bool, present: Present) -> SubscriptionStats:
        now = self._now()
        one = {"id": id_, "now": now}
        row = self._all(
            "SELECT (SELECT coalesce(sum(last - first + 1), 0) FROM {ready} WHERE subscription = :id), "
            "(SELECT count(*) FROM {suspect} WHERE subscription = :id), "
            "(SELECT count(*) FROM {later} WHERE subscription = :id AND due <= :now), "
            "(SELECT count(*) FROM {later} WHERE subscription = :id AND due > :now AND scheduled), "
            "(SELECT count(*) FROM {later} WHERE subscription = :id AND due > :now AND NOT scheduled), "
            "(SELECT count(*) FROM {dead} WHERE subscription = :id), "
            "(SELECT count(*) FROM {waiting} WHERE subscription = :id AND due <= :now), "
            "(SELECT count(*) FROM {waiting} WHERE subscription = :id AND due > :now), "
            "(SELECT count(*) FROM {busy} WHERE subscription = :id AND parked IS NOT NULL), "
            "(SELECT count(*) FROM {busy} JOIN {waiting} USING (subscription, topic, key) "
            " WHERE subscription = :id AND parked IS NOT NULL), "
            "(SELECT count(*) FROM {busy} JOIN {waiting} USING (subscription, topic, key) "
            " WHERE subscription = :id AND parked IS NOT NULL AND due > :now), "
            "(SELECT min(due) FROM {later} WHERE subscription = :id AND due > :now)",
            one,
        )[0]
        ready, suspects, due, scheduled, retrying, dead, waiting, waiting_later, parked, *rest = row
        parked_events, parked_later, next_due = rest
        leases = dict(self._all("SELECT owner, count(*) FROM {lease} WHERE subscription = :id GROUP BY owner", one))
        running = sum(count for owner, count in leases.items() if owner in present.owners)
        suspects += sum(leases.values()) - running
        behind = waiting - (parked_events - parked_later)
        return SubscriptionStats(
            name=name,
            backlog=ready + suspects + due + behind,
            in_flight=running,
            scheduled=scheduled + waiting_later - parked_later,
            retrying=retrying,
            dead=dead,
            oldest_age=self._oldest_age(one),
            next_due=None if next_due is None else max(0.0, next_due - now),
            parked=parked,
            parked_events=parked_events,
            workers=sum(name in worker.subscriptions for worker in present.workers),
            paused=paused,
            waiting=behind,
        )

    def _oldest_age(self, one: dict[str, Any]) -> float | None:
        """By the smallest number: events are numbered as they come."""
        row = self._all(
            "SELECT micros FROM {event} WHERE seq = (SELECT min(seq) FROM ("
            "SELECT min(first) AS seq FROM {ready} WHERE subscription = :id "
            "UNION ALL SELECT min(seq) FROM {suspect} WHERE subscription = :id "
            "UNION ALL SELECT min(seq) FROM {lease} WHERE subscription = :id "
            "UNION ALL SELECT min(seq) FROM {later} WHERE subscription = :id AND due <= :now "
            "UNION ALL SELECT min(seq) FROM {waiting} WHERE subscription = :id AND due <= :now))",
            one,
        )
        if not row or not isinstance(row[0][0], int):
            return None
        return max(0.0, float(one["now"]) - row[0][0] / 1e6)

    # -- events

    def events(self, query: EventQuery, limit: int, after: str | None, owners: set[str]) -> list[StoredEvent]:
        """Stored events, newest first."""
        conditions: list[_Condition] = []
        if after is not None:
            conditions.append(("seq < ?", (_number(after),)))
        if query.id is not None:
            conditions.append(("id = ?", (query.id.bytes,)))
        if query.key is not None:
            conditions.append(("key = ?", (query.key,)))
        if query.correlation_id is not None:
            conditions.append((_CORRELATED, (query.correlation_id,)))
        if query.since is not None:
            conditions.append(("micros >= ?", (micros_of(query.since),)))
        if query.before is not None:
            conditions.append(("micros < ?", (micros_of(query.before),)))
        search = _Search("SELECT seq, {columns} FROM {event} {where} ORDER BY seq DESC LIMIT ?", conditions, "seq < ?")
        search.named(query.name, "name", 2)
        rows = self._pages(search, limit)
        states = self._states([row[0] for row in rows], owners)
        return [StoredEvent(envelope=salvaged(row[1:]), cursor=str(row[0]), states=states[row[0]]) for row in rows]

    def _states(self, seqs: Sequence[int], owners: set[str]) -> dict[int, dict[str, str]]:
        states: dict[int, dict[str, str]] = {seq: {} for seq in seqs}
        if not seqs:
            return states
        names = dict(self._all("SELECT id, name FROM {subscription} WHERE name IS NOT NULL"))
        now = self._now()
        growing = sorted(seqs)
        for table, state in (
            ("suspect", "'ready'"),
            ("later", f"CASE WHEN due <= {now!r} THEN 'ready' WHEN scheduled THEN 'scheduled' ELSE 'retrying' END"),
            ("lease", "owner"),
            ("waiting", "'waiting'"),
            ("dead", "'dead'"),
        ):
            look = self._tables("SELECT seq, subscription, {state} FROM {table} WHERE ", table, state=state)
            for condition, values in matching(growing):
                rows = self.connection.execute(look + condition, values).fetchall()
                for seq, id_, found in rows:
                    if id_ in names:
                        alive = "running" if found in owners else "ready"
                        states[seq][names[id_]] = alive if table == "lease" else found
        spans = self._all(
            "SELECT subscription, first, last FROM {ready} WHERE first <= ? AND last >= ?", (growing[-1], growing[0])
        )
        for id_, first, last in spans:
            for seq in growing:
                if first <= seq <= last and id_ in names:
                    states[seq][names[id_]] = "ready"
        return states

    # -- dead letters

    def dead(self, subscription: str | None, query: DeadQuery, limit: int, after: UUID | None) -> list[DeadLetter]:
        """Dead letters, oldest burial first: their ids grow with time.

        Raises:
            UnknownSubscription: when there is none of that name.
        """
        conditions = self._dead_conditions(subscription, query)
        if after is not None:
            conditions.append(("d.id > ?", (after.bytes,)))
        search = _Search(
            "SELECT d.id, s.name, attempts, reason, error, message, traceback, buried_at, {event_columns} "
            "FROM {dead} d JOIN {event} e ON e.seq = d.seq JOIN {subscription} s ON s.id = d.subscription "
            "{where} ORDER BY d.id LIMIT ?",
            conditions,
            "d.id > ?",
        )
        search.named(query.name, "e.name", 9)
        return [_letter(row) for row in self._pages(search, limit)]

    def _dead_conditions(self, subscription: str | None, query: DeadQuery) -> list[_Condition]:
        conditions: list[_Condition] = [("s.name IS NOT NULL", ())]
        if subscription is not None:
            row = self._all("SELECT id FROM {subscription} WHERE name = ?", (subscription,))
            if not row:
                raise UnknownSubscription(f"no subscription is named {subscription!r}")
            conditions.append(("d.subscription = ?", (row[0][0],)))
        if query.ids is not None:
            marks = ",".join("?" * len(query.ids))
            ids = tuple(id_.bytes for id_ in query.ids)
            conditions.append((f"(d.id IN ({marks}) OR e.id IN ({marks}))", ids + ids))
        if query.key is not None:
            conditions.append(("e.key = ?", (query.key,)))
        if query.error is not None:
            conditions.append(
                (
                    "instr(folded(coalesce(d.error, '') || char(10) || coalesce(d.message, '')), folded(?))",
                    (query.error,),
                )
            )
        if query.reason is not None:
            conditions.append(("instr(folded(d.reason), folded(?))", (query.reason,)))
        if query.since is not None:
            conditions.append(("d.buried_at >= ?", (query.since.timestamp(),)))
        if query.before is not None:
            conditions.append(("d.buried_at < ?", (query.before.timestamp(),)))
        return conditions

    # -- pages

    def _pages(self, search: _Search, limit: int) -> list[tuple[Any, ...]]:
        """Rows that match, read in chunks where SQL cannot say which, so that no read transaction is long."""
        found: list[tuple[Any, ...]] = []
        behind: list[_Condition] = []
        while len(found) < limit:
            count = limit - len(found) if search.matches is None else _CHUNK
            conditions = search.conditions + behind
            where = "WHERE " + " AND ".join(text for text, _ in conditions) if conditions else ""
            values = [value for _, some in conditions for value in some]
            sql = self._tables(search.select, where=where, columns=COLUMNS, event_columns=_EVENT_COLUMNS)
            rows = self.connection.execute(sql, (*values, count)).fetchall()
            found += rows if search.matches is None else filter(search.matches, rows)
            if len(rows) < count:
                break
            behind = [(search.behind, (rows[-1][0],))]
        return found[:limit]

    def _all(self, sql: str, values: Any = ()) -> list[tuple[Any, ...]]:
        return self.connection.execute(self._tables(sql), values).fetchall()


def who_is_there(roll: Roll, sidecar: sqlite3.Connection, now: float) -> Present:
    """Who lives now, workers by owner."""
    rows = sidecar.execute(roll.alive, (now, now)).fetchall()
    workers = sorted((info for _, raw in rows if (info := info_of(raw)) is not None), key=lambda info: info.owner)
    return Present({owner for owner, _ in rows}, workers)


def _letter(row: Sequence[Any]) -> DeadLetter:
    id_, subscription, attempts, reason, error, message, traceback, buried_at, *columns = row
    failure = None if error is None else Failure(error, message or "", traceback or "")
    return DeadLetter(
        UUID(bytes=id_),
        salvaged(columns),
        subscription,
        attempts,
        reason,
        "" if failure is None else str(failure),
        _moment(buried_at),
        failure,
    )


def _folded(text: object) -> str:
    return str(text).casefold()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _number(cursor: str) -> int:
    return int(cursor)
