"""Subscriptions come, change and go: declared, renamed, paused, retired in small bites."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

import msgspec

from ...errors import ConfigError
from ...transport import Conflict, SubscriptionSpec
from .filling import Filling
from .ordering import Ordering
from .routing import RoutingCache, pack_spec, unpack_spec
from .schema import Tables
from .settling import Settling
from .spans import Execute, Inserter, matching
from .store import Transaction

__all__ = ["Declaring"]

# Deliveries that one transaction of a retirement lets go of.
_BITE = 1000

_HOLDING = ("ready", "later", "suspect", "lease", "waiting", "dead")


class Declaring:
    """The statements on subscriptions."""

    def __init__(self, tables: Tables, routing: RoutingCache, settling: Settling) -> None:
        self.ordering = Ordering(tables)
        self.filling = Filling(tables, self.ordering)
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

    # -- declared

    def known(self, execute: Execute, specs: Sequence[SubscriptionSpec]) -> bool:
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
            self.filling.begin(transaction, id_, 0)
            self.filling.bite(transaction, id_)

    def _replace(self, transaction: Transaction, id_: int, old: SubscriptionSpec, spec: SubscriptionSpec) -> None:
        transaction.execute(self._change, (spec.name, pack_spec(spec), id_))
        transaction.execute(self._current, (_fingerprint(spec), transaction.now, id_))
        transaction.execute(self._see, (id_, _fingerprint(spec)))
        if spec.ordered and not old.ordered:
            self.ordering.begin(transaction, id_)
        elif old.ordered and not spec.ordered:
            self.ordering.end(transaction, id_)
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

    def fill(self, transaction: Transaction) -> bool:
        """Go on giving newcomers what is stored; whether there may be more to give."""
        id_ = self.filling.pending(transaction.execute)
        if id_ is not None:
            self.filling.bite(transaction, id_)
        return id_ is not None

    # -- begun and not finished

    def unfinished(self, execute: Execute, now: float) -> bool:
        """Whether something that takes many transactions was left half done."""
        return self._retiring(execute) is not None or self.filling.pending(execute, now) is not None

    def finish(self, transaction: Transaction) -> None:
        """Do a bite of it."""
        retiring = self._retiring(transaction.execute)
        if retiring is not None:
            self.bite(transaction, retiring)
        filling = self.filling.pending(transaction.execute, transaction.now)
        if filling is not None:
            self.filling.bite(transaction, filling, adopted=True)

    def _retiring(self, execute: Execute) -> int | None:
        row = execute(self._tables("SELECT id FROM {subscription} WHERE name IS NULL LIMIT 1")).fetchone()
        return None if row is None else int(row[0])

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

    def bite(self, transaction: Transaction, id_: int) -> bool:
        """Let go of some of what a retired subscription holds; whether there is more."""
        for state in _HOLDING:
            seqs = self._bite_of_ready(transaction, id_) if state == "ready" else self._bite_of(transaction, id_, state)
            if seqs:
                self._settling.finish(transaction, seqs)
                return True
        for table in ("busy", "declaration", "filling"):
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
