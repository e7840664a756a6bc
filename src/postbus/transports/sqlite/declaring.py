"""Subscriptions come, change and go: declared, renamed, paused, given what is stored, retired in small bites."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import msgspec

from ...errors import ConfigError
from ...transport import Conflict, SubscriptionSpec
from .routing import RoutingCache, pack_spec, unpack_spec
from .schema import Tables
from .settling import Settling
from .spans import Inserter, matching, runs
from .store import Transaction

__all__ = ["Declaring"]

# Deliveries that one transaction of a retirement lets go of.
_BITE = 1000

_HOLDING = ("ready", "later", "suspect", "lease", "waiting", "dead")


class Declaring:
    """The statements on subscriptions."""

    def __init__(self, tables: Tables, routing: RoutingCache, settling: Settling) -> None:
        self._tables = tables
        self._routing = routing
        self._settling = settling
        self._find = tables("SELECT id, fingerprint, spec FROM {subscription} WHERE name = ?")
        self._create = tables(
            "INSERT INTO {subscription} (public, name, spec, fingerprint, declared_at) VALUES (?, ?, ?, ?, ?)"
        )
        self._change = tables("UPDATE {subscription} SET name = ?, spec = ? WHERE id = ?")
        self._current = tables("UPDATE {subscription} SET fingerprint = ?, declared_at = ? WHERE id = ?")
        self._was_seen = tables("SELECT 1 FROM {declaration} WHERE subscription = ? AND fingerprint = ?")
        self._see = tables("INSERT OR IGNORE INTO {declaration} (subscription, fingerprint) VALUES (?, ?)")
        self._by_meaning = tables(
            "SELECT id, fingerprint, spec FROM {subscription} WHERE name IS NOT NULL AND id IN "
            "(SELECT subscription FROM {declaration} WHERE fingerprint = ?) LIMIT 1"
        )
        self._pause = tables("UPDATE {subscription} SET paused = ? WHERE id = ?")
        self._ready = Inserter(tables("INSERT INTO {ready} (subscription, first, last)"), 3)
        self._later = Inserter(tables("INSERT INTO {later} (subscription, due, seq, scheduled, attempt)"), 5)
        self._waiting = Inserter(tables("INSERT INTO {waiting} (subscription, topic, key, seq, due)"), 5)
        self._hold = tables(
            "INSERT INTO {busy} (subscription, topic, key, holders) VALUES (?, ?, ?, 1) "
            "ON CONFLICT DO UPDATE SET holders = 1 WHERE holders = 0 AND parked IS NULL"
        )
        self._count_up = tables("UPDATE {event} SET pending = pending + 1 WHERE ")

    # -- declared

    def known(self, execute: Any, specs: Sequence[SubscriptionSpec]) -> bool:
        """Whether all of these are declared just so, and nothing is to be done."""
        for spec in specs:
            row = execute(self._find, (spec.name,)).fetchone()
            if row is None or row[1] != _fingerprint(spec) or bytes(row[2]) != pack_spec(spec):
                return False
        return True

    def declare(self, transaction: Transaction, specs: Sequence[SubscriptionSpec], *, newest: bool) -> list[Conflict]:
        """Make these exist; the newest declaration wins, and an older program's is reported."""
        conflicts: list[Conflict] = []
        for spec in specs:
            row = self._known_as(transaction, spec)
            if row is None:
                self._add(transaction, spec)
                continue
            id_, current, raw = row
            meaning = _fingerprint(spec)
            if meaning == current:
                transaction.execute(self._change, (spec.name, pack_spec(spec), id_))
            elif not newest and transaction.execute(self._was_seen, (id_, meaning)).fetchone():
                conflicts.append(_conflict(spec, unpack_spec(raw)))
            else:
                self._replace(transaction, id_, unpack_spec(raw), spec)
        return conflicts

    def _known_as(self, transaction: Transaction, spec: SubscriptionSpec) -> Any:
        """By its name, by the name it had, or by having been declared just so before somebody renamed it."""
        row = transaction.execute(self._find, (spec.name,)).fetchone()
        if row is None and spec.was is not None:
            row = transaction.execute(self._find, (spec.was,)).fetchone()
        return row or transaction.execute(self._by_meaning, (_fingerprint(spec),)).fetchone()

    def _add(self, transaction: Transaction, spec: SubscriptionSpec) -> None:
        values = (uuid4().bytes, spec.name, pack_spec(spec), _fingerprint(spec), transaction.now)
        id_ = transaction.execute(self._create, values).lastrowid
        transaction.execute(self._see, (id_, _fingerprint(spec)))
        self._changed(transaction)
        if spec.start == "earliest":
            self.fill(transaction, id_, spec, 0)

    def _replace(self, transaction: Transaction, id_: int, old: SubscriptionSpec, spec: SubscriptionSpec) -> None:
        transaction.execute(self._change, (spec.name, pack_spec(spec), id_))
        transaction.execute(self._current, (_fingerprint(spec), transaction.now, id_))
        transaction.execute(self._see, (id_, _fingerprint(spec)))
        if spec.ordered and not old.ordered:
            self._put_in_order(transaction, id_)
        elif old.ordered and not spec.ordered:
            self._free_order(transaction, id_)
        self._changed(transaction)

    def _changed(self, transaction: Transaction) -> None:
        """What is appended next in this very transaction must see it too."""
        transaction.revision += 1
        transaction.routing = self._routing.at(transaction.revision, transaction.execute)

    # -- named and paused

    def pause(self, transaction: Transaction, name: str, *, paused: bool) -> None:
        """Refuse or allow claims."""
        place = transaction.routing.place(name)
        if place.paused != paused:
            transaction.execute(self._pause, (paused, place.id))
            self._changed(transaction)
            transaction.rung.add(place.id)

    def rename(self, transaction: Transaction, name: str, to: str) -> None:
        """Give a subscription a new name.

        Raises:
            ConfigError: when it is taken.
        """
        place = transaction.routing.place(name)
        if name == to:
            return
        if to in transaction.routing.by_name:
            raise ConfigError(f"subscription {name!r} cannot be renamed to {to!r}: that name is taken")
        self._replace(transaction, place.id, place.spec, replace(place.spec, name=to))

    # -- ordered and not

    def _put_in_order(self, transaction: Transaction, id_: int) -> None:
        """From now on a key's deliveries run one by one: those under way hold it, of the others the first goes on."""
        for state in ("later", "suspect", "lease"):
            transaction.execute(
                self._tables(
                    "INSERT INTO {busy} (subscription, topic, key, holders) SELECT subscription, topic, key, count(*) "
                    "FROM {table} JOIN {event} USING (seq) WHERE subscription = ? AND key IS NOT NULL "
                    "GROUP BY topic, key ON CONFLICT DO UPDATE SET holders = holders + excluded.holders",
                    state,
                ),
                (id_,),
            )
        rows = transaction.execute(
            self._tables(
                "SELECT seq, topic, key FROM {ready} CROSS JOIN {event} "
                "WHERE subscription = ? AND seq BETWEEN first AND last ORDER BY seq"
            ),
            (id_,),
        ).fetchall()
        transaction.execute(self._tables("DELETE FROM {ready} WHERE subscription = ?"), (id_,))
        self._spread(transaction, id_, [(seq, topic, key, 0.0) for seq, topic, key in rows], ordered=True)

    def _free_order(self, transaction: Transaction, id_: int) -> None:
        rows = transaction.execute(
            self._tables("SELECT seq, topic, key, due FROM {waiting} WHERE subscription = ? ORDER BY seq"), (id_,)
        ).fetchall()
        for table in ("waiting", "busy"):
            transaction.execute(self._tables("DELETE FROM {table} WHERE subscription = ?", table), (id_,))
        self._spread(transaction, id_, rows, ordered=False)

    def _spread(
        self, transaction: Transaction, id_: int, rows: Sequence[tuple[int, str, str | None, float]], *, ordered: bool
    ) -> None:
        """Put deliveries, in the order of append, to where they belong: ready, later, or behind their key."""
        ready: list[int] = []
        later: list[Any] = []
        waiting: list[Any] = []
        for seq, topic, key, due in rows:
            if ordered and key is not None and not self.hold(transaction, id_, topic, key):
                waiting += (id_, topic, key, seq, due)
            elif due > transaction.now:
                later += (id_, due, seq, 1, 1)
            else:
                ready.append(seq)
        self._ready(transaction.execute, [value for first, last in runs(ready) for value in (id_, first, last)])
        self._later(transaction.execute, later)
        self._waiting(transaction.execute, waiting)
        transaction.rung.add(id_)

    def hold(self, transaction: Transaction, id_: int, topic: str, key: str) -> bool:
        """Take a key; false when it is taken."""
        return bool(transaction.execute(self._hold, (id_, topic, key)).rowcount == 1)

    # -- given what is stored

    def fill(self, transaction: Transaction, id_: int, spec: SubscriptionSpec, since: int) -> int:
        """Deliver the stored events since then (microseconds) that it takes and does not hold; return how many."""
        kinds = transaction.execute(self._tables("SELECT DISTINCT name, topic FROM {event}")).fetchall()
        taken = {kind for kind in kinds if spec.takes(*kind)}
        if not taken:
            return 0
        held = self._held(transaction, id_)
        due = self._not_due(transaction)
        rows = transaction.execute(
            self._tables("SELECT seq, name, topic, key FROM {event} WHERE micros >= ? ORDER BY seq"), (since,)
        )
        found = [
            (seq, topic, key, due.get(seq, 0.0))
            for seq, name, topic, key in rows.fetchall()
            if (name, topic) in taken and seq not in held
        ]
        unburied = self._unbury(transaction, id_, [row[0] for row in found])
        for condition, values in matching([row[0] for row in found if row[0] not in unburied]):
            transaction.execute(self._count_up + condition, values)
        self._spread(transaction, id_, found, ordered=spec.ordered)
        return len(found)

    def _unbury(self, transaction: Transaction, id_: int, seqs: Sequence[int]) -> set[int]:
        """A delivery is in one place: what is dead leaves its grave, and the key that it parked."""
        unburied: set[int] = set()
        for condition, values in matching(seqs):
            where = f"subscription = ? AND {condition}"
            rows = transaction.execute(self._tables("SELECT seq, id FROM {dead} WHERE ") + where, (id_, *values))
            for seq, letter in rows.fetchall():
                unburied.add(seq)
                transaction.execute(
                    self._tables("UPDATE {busy} SET parked = NULL WHERE subscription = ? AND parked = ?"), (id_, letter)
                )
            transaction.execute(self._tables("DELETE FROM {dead} WHERE ") + where, (id_, *values))
        return unburied

    def _held(self, transaction: Transaction, id_: int) -> set[int]:
        held: set[int] = set()
        spans = transaction.execute(self._tables("SELECT first, last FROM {ready} WHERE subscription = ?"), (id_,))
        for first, last in spans.fetchall():
            held.update(range(first, last + 1))
        for state in _HOLDING[1:-1]:
            rows = transaction.execute(self._tables("SELECT seq FROM {table} WHERE subscription = ?", state), (id_,))
            held.update(seq for (seq,) in rows.fetchall())
        return held

    def _not_due(self, transaction: Transaction) -> dict[int, float]:
        """Events that were published with a delay that has not passed: they come no earlier to a newcomer."""
        rows = transaction.execute(
            self._tables(
                "SELECT seq, due FROM {later} WHERE scheduled AND due > ? UNION "
                "SELECT seq, due FROM {waiting} WHERE due > ?"
            ),
            (transaction.now, transaction.now),
        )
        return dict(rows.fetchall())

    # -- retired

    def retire(self, transaction: Transaction, name: str) -> tuple[int, int]:
        """Take the subscription's name away, so that nothing reaches it; return its row id, and how much it holds."""
        place = transaction.routing.place(name)
        total = 0
        for state in _HOLDING:
            what = "coalesce(sum(last - first + 1), 0)" if state == "ready" else "count(*)"
            row = transaction.execute(
                self._tables("SELECT {what} FROM {table} WHERE subscription = ?", state, what=what), (place.id,)
            ).fetchone()
            total += row[0]
        transaction.execute(self._tables("UPDATE {subscription} SET name = NULL WHERE id = ?"), (place.id,))
        self._changed(transaction)
        return place.id, total

    def retiring(self, execute: Any) -> int | None:
        """A subscription whose retirement is not finished."""
        row = execute(self._tables("SELECT id FROM {subscription} WHERE name IS NULL LIMIT 1")).fetchone()
        return None if row is None else int(row[0])

    def bite(self, transaction: Transaction, id_: int) -> bool:
        """Let go of some of what a retired subscription holds; whether there is more."""
        for state in _HOLDING:
            seqs = self._bite_of_ready(transaction, id_) if state == "ready" else self._bite_of(transaction, id_, state)
            if seqs:
                self._settling.finish(transaction, seqs)
                return True
        for table in ("busy", "declaration"):
            transaction.execute(self._tables("DELETE FROM {table} WHERE subscription = ?", table), (id_,))
        transaction.execute(self._tables("DELETE FROM {subscription} WHERE id = ? AND name IS NULL"), (id_,))
        return False

    def _bite_of_ready(self, transaction: Transaction, id_: int) -> list[int]:
        row = transaction.execute(
            self._tables("SELECT first, last FROM {ready} WHERE subscription = ? ORDER BY first LIMIT 1"), (id_,)
        ).fetchone()
        if row is None:
            return []
        first, last = row
        end = min(last, first + _BITE - 1)
        transaction.execute(self._tables("DELETE FROM {ready} WHERE subscription = ? AND first = ?"), (id_, first))
        if end < last:
            self._ready(transaction.execute, (id_, end + 1, last))
        return list(range(first, end + 1))

    def _bite_of(self, transaction: Transaction, id_: int, state: str) -> list[int]:
        rows = transaction.execute(
            self._tables("SELECT seq FROM {table} WHERE subscription = ? LIMIT ?", state), (id_, _BITE)
        ).fetchall()
        seqs = sorted(row[0] for row in rows)
        delete = self._tables("DELETE FROM {table} WHERE subscription = ? AND ", state)
        for condition, values in matching(seqs):
            transaction.execute(delete + condition, (id_, *values))
        return seqs


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
