"""Subscriptions come, change and go: declared, renamed, paused, given what is stored, retired in small bites."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime

import msgspec

from ...errors import ConfigError, UnknownSubscription
from ...transport import Conflict, SubscriptionSpec
from .line import Ask, Line, Row
from .routing import Place, Registry, pack_spec, unpack_spec
from .schema import Tables

__all__ = ["Declaring"]

# Deliveries that one transaction of a retirement lets go of.
_BITE = 1000
_BITE_OF_DELIVERIES = (
    "WITH gone AS (DELETE FROM postbus.delivery WHERE subscription = %s AND seq IN "
    "(SELECT seq FROM postbus.delivery WHERE subscription = %s LIMIT %s) RETURNING seq) SELECT array_agg(seq) FROM gone"
)
_BITE_OF_DEAD = _BITE_OF_DELIVERIES.replace("delivery", "dead")
# What others still hold, and what was kept: both of these names and topics, since then.
_FILL_HELD = """
WITH found AS (
    SELECT e.seq FROM postbus.event e
    JOIN unnest(%s::text[], %s::text[]) AS k(name, topic) ON k.name = e.name AND k.topic = e.topic
    WHERE e.micros >= %s
        AND NOT EXISTS (SELECT FROM postbus.delivery d WHERE d.seq = e.seq AND d.subscription = %s)
    ORDER BY e.seq FOR UPDATE OF e
), marked AS (
    UPDATE postbus.event e SET routes = e.routes + 2 FROM found f WHERE e.seq = f.seq
    RETURNING e.seq, CASE WHEN e.due > clock_timestamp() THEN e.due END AS due
), unburied AS (
    DELETE FROM postbus.dead x USING found f WHERE x.seq = f.seq AND x.subscription = %s
), offered AS (
    INSERT INTO postbus.delivery (seq, subscription, state, due, delayed)
    SELECT m.seq, %s, CASE WHEN %s THEN 0 WHEN m.due IS NULL THEN 1 ELSE 3 END, m.due, m.due IS NOT NULL FROM marked m
)
SELECT count(*) FROM found
"""
_FILL_KEPT = """
WITH back AS (
    DELETE FROM postbus.history h USING unnest(%s::text[], %s::text[]) AS k(name, topic)
    WHERE k.name = h.name AND k.topic = h.topic AND h.micros >= %s AND h.keep_until > clock_timestamp() RETURNING h.*
), stored AS (
    INSERT INTO postbus.event SELECT b.* FROM back b
), offered AS (
    INSERT INTO postbus.delivery (seq, subscription, state, due, delayed)
    SELECT b.seq, %s, CASE WHEN %s THEN 0 WHEN b.later IS NULL THEN 1 ELSE 3 END, b.later, b.later IS NOT NULL
    FROM (SELECT seq, CASE WHEN due > clock_timestamp() THEN due END AS later FROM back) b
)
SELECT count(*) FROM back
"""


class Declaring:
    """The statements on subscriptions."""

    def __init__(self, line: Line, tables: Tables, registry: Registry, ring: Callable[[Collection[int]], None]) -> None:
        self._line = line
        self._tables = tables
        self._registry = registry
        self._ring = ring

    # -- declared

    async def declare(self, specs: Sequence[SubscriptionSpec], *, newest: bool) -> list[Conflict]:
        """Make these exist; the newest declaration wins, and an older program's is reported."""
        if await self._known(specs):
            return []
        conflicts: list[Conflict] = []
        filled: list[int] = []
        async with self._line.transaction() as ask:
            await self._enter(ask)
            for spec in specs:
                row = await self._known_as(ask, spec)
                if row is None:
                    id_ = await self._add(ask, spec)
                    if spec.start == "earliest":
                        await self._fill(ask, id_, spec, 0)
                        filled.append(id_)
                elif bytes(row[1]) == _fingerprint(spec):
                    await ask(
                        self._tables("UPDATE postbus.subscription SET spec = %s WHERE id = %s"),
                        (pack_spec(spec), row[0]),
                    )
                elif not newest and await self._was_seen(ask, row[0], spec):
                    conflicts.append(_conflict(spec, unpack_spec(row[2])))
                else:
                    await self._replace(ask, row[0], unpack_spec(row[2]), spec)
        await self._registry.read()
        self._ring(filled)
        return conflicts

    async def _enter(self, ask: Ask) -> None:
        """One at a time may change subscriptions."""
        await ask("SELECT pg_advisory_xact_lock(%s, 0)", (self._tables.lock,))

    async def _known(self, specs: Sequence[SubscriptionSpec]) -> bool:
        """Whether all of these are declared just so, and nothing is to be done."""
        rows = await self._line.ask(
            self._tables("SELECT name, fingerprint, spec::text FROM postbus.subscription WHERE name = ANY (%s)"),
            ([spec.name for spec in specs],),
        )
        known = {name: (bytes(fingerprint), unpack_spec(spec)) for name, fingerprint, spec in rows}
        return all(known.get(spec.name) == (_fingerprint(spec), spec) for spec in specs)

    async def _known_as(self, ask: Ask, spec: SubscriptionSpec) -> Row | None:
        """By its name, by the name it had, or by having been declared just so before somebody renamed it."""
        find = self._tables("SELECT id, fingerprint, spec::text FROM postbus.subscription WHERE name = %s")
        for name in (spec.name, spec.was):
            if name is not None and (rows := await ask(find, (name,))):
                return rows[0]
        rows = await ask(
            self._tables(
                "SELECT id, fingerprint, spec::text FROM postbus.subscription WHERE name IS NOT NULL AND id IN "
                "(SELECT subscription FROM postbus.declaration WHERE fingerprint = %s) LIMIT 1"
            ),
            (_fingerprint(spec),),
        )
        return rows[0] if rows else None

    async def _was_seen(self, ask: Ask, id_: int, spec: SubscriptionSpec) -> bool:
        sql = self._tables("SELECT 1 FROM postbus.declaration WHERE subscription = %s AND fingerprint = %s")
        return bool(await ask(sql, (id_, _fingerprint(spec))))

    async def _add(self, ask: Ask, spec: SubscriptionSpec) -> int:
        ((id_,),) = await ask(
            self._tables(
                "INSERT INTO postbus.subscription (name, spec, ordered, parks, fingerprint) "
                "VALUES (%s, %s, %s, %s, %s) RETURNING id"
            ),
            (spec.name, pack_spec(spec), spec.ordered, spec.on_bury == "park", _fingerprint(spec)),
        )
        await self._see(ask, id_, spec)
        return int(id_)

    async def _replace(self, ask: Ask, id_: int, old: SubscriptionSpec, spec: SubscriptionSpec) -> None:
        await ask("SELECT pg_advisory_xact_lock(%s, %s)", (self._tables.lock, id_))
        await ask(
            self._tables(
                "UPDATE postbus.subscription SET name = %s, spec = %s, ordered = %s, parks = %s, fingerprint = %s, "
                "declared_at = clock_timestamp() WHERE id = %s"
            ),
            (spec.name, pack_spec(spec), spec.ordered, spec.on_bury == "park", _fingerprint(spec), id_),
        )
        await self._see(ask, id_, spec)
        if spec.ordered and not old.ordered:
            await self._put_in_order(ask, id_)
        elif old.ordered and not spec.ordered:
            await self._free_order(ask, id_)

    async def _see(self, ask: Ask, id_: int, spec: SubscriptionSpec) -> None:
        await ask(
            self._tables("INSERT INTO postbus.declaration VALUES (%s, %s) ON CONFLICT DO NOTHING"),
            (id_, _fingerprint(spec)),
        )
        await self._changed(ask)

    async def _changed(self, ask: Ask) -> None:
        """Whoever routes by what was read before has to read again."""
        await ask(self._tables("UPDATE postbus.meta SET revision = revision + 1"))

    async def _put_in_order(self, ask: Ask, id_: int) -> None:
        """Those under way hold their key; the others are looked at again, by the next claim."""
        await ask(
            self._tables(
                "UPDATE postbus.delivery d SET lane = e.topic || '/' || e.key FROM postbus.event e "
                "WHERE d.subscription = %s AND d.state IN (3, 4, 5) AND e.seq = d.seq"
            ),
            (id_,),
        )
        await ask(
            self._tables("UPDATE postbus.delivery SET state = 0 WHERE subscription = %s AND state = 1"),
            (id_,),
        )

    async def _free_order(self, ask: Ask, id_: int) -> None:
        await ask(
            self._tables(
                "UPDATE postbus.delivery SET lane = NULL, state = CASE WHEN state NOT IN (0, 2) THEN state "
                "WHEN due > clock_timestamp() THEN 3 ELSE 1 END WHERE subscription = %s"
            ),
            (id_,),
        )
        await ask(self._tables("UPDATE postbus.dead SET lane = NULL WHERE subscription = %s"), (id_,))

    # -- named and paused

    async def place(self, name: str) -> Place:
        """The subscription of this name.

        Raises:
            UnknownSubscription: when there is none.
        """
        return await self._place(self._line.ask, name)

    async def _place(self, ask: Ask, name: str) -> Place:
        sql = self._tables("SELECT id, spec::text FROM postbus.subscription WHERE name = %s")
        rows = await ask(sql, (name,))
        if not rows:
            raise UnknownSubscription(f"no subscription is named {name!r}: declare it first")
        return Place(rows[0][0], unpack_spec(rows[0][1]))

    async def pause(self, name: str, *, paused: bool) -> None:
        """Refuse or allow claims."""
        place = await self.place(name)
        await self._line.ask(
            self._tables("UPDATE postbus.subscription SET paused = %s WHERE id = %s"), (paused, place.id)
        )
        self._ring([place.id])

    async def rename(self, name: str, to: str) -> None:
        """Give a subscription a new name.

        Raises:
            ConfigError: when it is taken.
        """
        async with self._line.transaction() as ask:
            await self._enter(ask)
            place = await self._place(ask, name)
            if name == to:
                return
            if await ask(self._tables("SELECT 1 FROM postbus.subscription WHERE name = %s"), (to,)):
                raise ConfigError(f"subscription {name!r} cannot be renamed to {to!r}: that name is taken")
            await self._replace(ask, place.id, place.spec, replace(place.spec, name=to))
        await self._registry.read()

    # -- given what is stored

    async def seek(self, name: str, to: datetime) -> int:
        """Deliver the stored events since then again; return how many."""
        async with self._line.transaction() as ask:
            await self._enter(ask)  # of two at once, the later one would miss what the other brings back from history
            place = await self._place(ask, name)
            await ask("SELECT pg_advisory_xact_lock(%s, %s)", (self._tables.lock, place.id))
            count = await self._fill(ask, place.id, place.spec, int(to.timestamp() * 1e6))
        self._ring([place.id])
        return count

    async def _fill(self, ask: Ask, id_: int, spec: SubscriptionSpec, since: int) -> int:
        """Deliver the stored events since then (microseconds) that it takes and does not hold; return how many."""
        kinds = await ask(self._tables("SELECT DISTINCT name, topic FROM postbus.stored"))
        taken = [(name, topic) for name, topic in kinds if spec.takes(name, topic)]
        if not taken:
            return 0
        wanted = ([name for name, _ in taken], [topic for _, topic in taken], since)
        # What becomes history between the two is found by the second.
        ((held,),) = await ask(self._tables(_FILL_HELD), (*wanted, id_, id_, id_, spec.ordered))
        ((kept,),) = await ask(self._tables(_FILL_KEPT), (*wanted, id_, spec.ordered))
        return int(held + kept)

    # -- retired

    async def retire(self, name: str) -> int:
        """Take the subscription's name away, so that nothing reaches it, and let go of what it holds, in bites."""
        async with self._line.transaction() as ask:
            await self._enter(ask)
            place = await self._place(ask, name)
            await ask("SELECT pg_advisory_xact_lock(%s, %s)", (self._tables.lock, place.id))
            ((count,),) = await ask(
                self._tables(
                    "SELECT (SELECT count(*) FROM postbus.delivery WHERE subscription = %s) "
                    "+ (SELECT count(*) FROM postbus.dead WHERE subscription = %s)"
                ),
                (place.id, place.id),
            )
            await ask(self._tables("UPDATE postbus.subscription SET name = NULL WHERE id = %s"), (place.id,))
            await ask(self._tables("DELETE FROM postbus.declaration WHERE subscription = %s"), (place.id,))
            await self._changed(ask)
        await self._registry.read()
        while await self.bite(place.id):
            pass
        return int(count)

    async def bite(self, id_: int) -> bool:
        """Let go of some of what a retired subscription holds; whether there may be more."""
        async with self._line.transaction() as ask:
            for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin"):  # as `finish` expects it
                await ask(f"SET LOCAL {setting} = off")
            for bite in (_BITE_OF_DELIVERIES, _BITE_OF_DEAD):
                ((seqs,),) = await ask(self._tables(bite), (id_, id_, _BITE))
                if seqs:
                    await ask(self._tables("SELECT postbus.finish(%s::bigint[])"), (seqs,))
                    return True
        return False


def _fingerprint(spec: SubscriptionSpec) -> bytes:
    """Of what a declaration means; where its code is does not matter."""
    meaning = (spec.name, sorted(set(spec.wants)), spec.topic, spec.ordered, spec.on_bury)
    return hashlib.sha256(msgspec.msgpack.encode(meaning)).digest()[:16]


def _conflict(spec: SubscriptionSpec, current: SubscriptionSpec) -> Conflict:
    return Conflict(
        spec.name,
        f"the older declaration of {spec.name!r} was not applied: {current.name!r} was declared anew since then, for "
        f"{', '.join(current.wants)}",
    )
