"""Outcomes come back: done, later, dead, or handed back; refused where the lease is no longer held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...delivery import Ack, Bury, Delivery, Failure, Outcome, Release, Requeue
from ...envelope import new_id
from ...errors import LeaseLost
from ...transport import Settle, Settled
from .routing import Place
from .rows import failure_of, packed
from .schema import Tables
from .spans import Inserter, matching
from .store import Transaction

__all__ = ["Settling"]

_SETTLED = Settled()


class _Held(NamedTuple):
    """A delivery that is to be settled, and what its lease says: the attempt, whether alone, the failure before."""

    delivery: Delivery
    outcome: Outcome
    attempt: int
    alone: int
    failure: bytes | None


class Settling:
    """The statements of a settle, and of whatever else finishes an event or frees a key."""

    def __init__(self, tables: Tables) -> None:
        self._leases = tables(
            "SELECT seq, attempt, alone, failure FROM {lease} "
            "WHERE subscription = ? AND seq BETWEEN ? AND ? AND fence = ? AND owner = ?"
        )
        self._unlease = tables("DELETE FROM {lease} WHERE subscription = ? AND ")
        self._finish = tables("DELETE FROM {event} WHERE pending <= 1 AND keep_until IS NULL AND ")
        self._count_down = tables("UPDATE {event} SET pending = pending - 1 WHERE ")
        self._later = Inserter(
            tables("INSERT OR REPLACE INTO {later} (subscription, due, seq, scheduled, attempt, failure, suspect)"), 7
        )
        self._ready = tables("INSERT OR REPLACE INTO {ready} (subscription, first, last) VALUES (?, ?, ?)")
        self._suspect = tables(
            "INSERT OR REPLACE INTO {suspect} (subscription, seq, attempt, failure) VALUES (?, ?, ?, ?)"
        )
        self._dead = tables(
            "INSERT INTO {dead} (id, subscription, seq, attempts, reason, error, message, traceback, "
            "buried_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        self._let_go = tables(
            "UPDATE {busy} SET holders = max(0, holders - 1) WHERE subscription = ? AND topic = ? AND key = ?"
        )
        self._holders = tables("SELECT holders, parked FROM {busy} WHERE subscription = ? AND topic = ? AND key = ?")
        self._park = tables(
            "INSERT INTO {busy} (subscription, topic, key, holders, parked) VALUES (?, ?, ?, 0, ?) "
            "ON CONFLICT DO UPDATE SET holders = max(0, holders - 1), parked = coalesce(parked, excluded.parked)"
        )
        self._free = tables("DELETE FROM {busy} WHERE subscription = ? AND topic = ? AND key = ?")
        self._hold = tables("UPDATE {busy} SET holders = 1 WHERE subscription = ? AND topic = ? AND key = ?")
        self._next = tables(
            "SELECT seq, due FROM {waiting} WHERE subscription = ? AND topic = ? AND key = ? ORDER BY seq LIMIT 1"
        )
        self._unwait = tables("DELETE FROM {waiting} WHERE subscription = ? AND topic = ? AND key = ? AND seq = ?")

    def settle(self, transaction: Transaction, settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Settle]:
        """Store outcomes; one result for each."""
        results: list[Settle] = [_SETTLED] * len(settlements)
        groups: dict[tuple[int, int, str], list[int]] = {}
        for place, (delivery, _) in enumerate(settlements):
            groups.setdefault((delivery.receipt[0], delivery.fence, delivery.owner), []).append(place)
        for (subscription, fence, owner), places in groups.items():
            seqs = [settlements[place][0].receipt[1] for place in places]
            rows = transaction.execute(self._leases, (subscription, min(seqs), max(seqs), fence, owner)).fetchall()
            leases = {row[0]: row[1:] for row in rows}
            mine: list[_Held] = []
            for place, seq in zip(places, seqs, strict=True):
                lease = leases.pop(seq, None)
                if lease is None:
                    results[place] = _lost(settlements[place][0])
                else:
                    mine.append(_Held(*settlements[place], *lease))
            if mine:
                self._settle_held(transaction, subscription, mine)
        return results

    def _settle_held(self, transaction: Transaction, subscription: int, mine: Sequence[_Held]) -> None:
        """Outcomes of one claim's deliveries, all of them still held."""
        place = transaction.routing.by_id.get(subscription)
        ordered = place is not None and place.spec.ordered
        done: list[int] = []
        later: list[Any] = []
        for held in mine:
            seq = held.delivery.receipt[1]
            match held.outcome:
                case Ack():
                    done.append(seq)
                    if ordered:
                        envelope = held.delivery.envelope
                        self.free_key(transaction, subscription, envelope.log, envelope.key)
                case Requeue(after, failure, suspect):
                    attempt = held.attempt + (failure is not None)
                    carried = packed(failure) or held.failure
                    later += (subscription, transaction.now + after, seq, 0, attempt, carried, suspect)
                case Release():
                    self._hand_back(transaction, subscription, held)
                case Bury(reason, failure):
                    self._bury(transaction, place, held, reason, failure)
        for condition, values in matching(sorted(held.delivery.receipt[1] for held in mine)):
            transaction.execute(self._unlease + condition, (subscription, *values))
        if later:
            self._later(transaction.execute, later)
            transaction.rung.add(subscription)
        self.finish(transaction, sorted(done))

    def finish(self, transaction: Transaction, seqs: Sequence[int]) -> None:
        """One subscription lets go of these growing numbers: an event that nobody holds is gone, or history."""
        for condition, values in matching(seqs):
            count = values[1] - values[0] + 1 if "BETWEEN" in condition else len(set(values))
            if transaction.execute(self._finish + condition, values).rowcount < count:
                transaction.execute(self._count_down + condition, values)

    def free_key(self, transaction: Transaction, subscription: int, topic: str, key: str | None) -> None:
        """A delivery of this key is over: the next one's turn, unless others still run or a dead letter holds it."""
        if key is None:
            return
        values = (subscription, topic, key)
        transaction.execute(self._let_go, values)
        row = transaction.execute(self._holders, values).fetchone()
        if row is not None and row[0] == 0 and row[1] is None:
            self.advance(transaction, subscription, topic, key)

    def advance(self, transaction: Transaction, subscription: int, topic: str, key: str) -> None:
        """Give the key to the first that waits for it, or to nobody."""
        values = (subscription, topic, key)
        row = transaction.execute(self._next, values).fetchone()
        if row is None:
            transaction.execute(self._free, values)
            return
        seq, due = row
        transaction.execute(self._unwait, (*values, seq))
        transaction.execute(self._hold, values)
        if due > transaction.now:
            self._later(transaction.execute, (subscription, due, seq, 1, 1, None, 0))
        else:
            transaction.execute(self._ready, (subscription, seq, seq))
        transaction.rung.add(subscription)

    def _hand_back(self, transaction: Transaction, subscription: int, held: _Held) -> None:
        """As if it had not been claimed: to where it came from, and due now."""
        seq = held.delivery.receipt[1]
        if held.alone:
            transaction.execute(self._suspect, (subscription, seq, held.attempt, held.failure))
        elif held.attempt == 1 and held.failure is None:
            transaction.execute(self._ready, (subscription, seq, seq))
        else:
            self._later(transaction.execute, (subscription, 0.0, seq, 0, held.attempt, held.failure, 0))
        transaction.rung.add(subscription)

    def _bury(
        self, transaction: Transaction, place: Place | None, held: _Held, reason: str, failure: Failure | None
    ) -> None:
        """To the dead, with the last failure there was; its key goes on, or waits for it."""
        subscription, seq = held.delivery.receipt
        id_ = new_id()
        spent = held.attempt - (failure is None)
        last = failure or failure_of(held.failure)
        parts = (None, None, None) if last is None else (last.error, last.message, last.traceback)
        texts = [_storable(text) for text in (reason, *parts)]
        transaction.execute(self._dead, (id_, subscription, seq, spent, *texts, transaction.now))
        topic, key = held.delivery.envelope.log, held.delivery.envelope.key
        if place is None or not place.spec.ordered or key is None:
            return
        if place.spec.on_bury == "park":
            transaction.execute(self._park, (subscription, topic, key, id_))
        else:
            self.free_key(transaction, subscription, topic, key)


def _storable(text: str | None) -> str | None:
    return text if text is None or text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _lost(delivery: Delivery) -> LeaseLost:
    return LeaseLost(
        f"event {delivery.envelope.id} is no longer leased for {delivery.subscription!r} to {delivery.owner!r}"
    )
