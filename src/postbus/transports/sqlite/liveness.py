"""Who is alive: one row for each worker in a sidecar file, and what becomes of the leases of those who are not.

The main file has one write lock, which a user's transaction may hold for long; leases renewed there would all be lost
with it.  So a lease in the main file says only whose it is, and lives while its owner does.  Nothing in the sidecar
file outlives a boot of the machine, whose monotonic clock it is reckoned by; a sweep holds both locks, so that an owner
who comes back late either finds its leases as they were, or knows that they are gone.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

import msgspec

from ...clock import Clock
from ...delivery import Delivery
from ...dice import dice
from ...transport import WorkerInfo
from .files import Place
from .schema import Tables
from .spans import matching
from .store import Transaction, patiently, translated

__all__ = ["Liveness", "Renewer", "Roll", "info_of"]

T = TypeVar("T")

log = logging.getLogger("postbus")

_INFO = msgspec.json.Decoder(WorkerInfo)
# What a worker that beats before it ever claimed is given.
_LEASE = 30.0


class Roll:
    """The statements on the workers' table."""

    def __init__(self, tables: Tables) -> None:
        # The lease is the one that `alive_until` was reckoned with: a time further ahead than that is of another boot.
        self.extend = tables(
            "INSERT INTO {worker} (owner, lease, alive_until) VALUES (?, ?, ?) ON CONFLICT (owner) DO UPDATE SET "
            "lease = CASE WHEN excluded.alive_until > alive_until THEN excluded.lease ELSE lease END, "
            "alive_until = max(alive_until, excluded.alive_until)"
        )
        self.go_on = tables(
            "UPDATE {worker} SET lease = CASE WHEN ? > alive_until THEN ? ELSE lease END, "
            "alive_until = max(alive_until, ?) WHERE owner = ? AND alive_until > ? AND alive_until <= ? + lease + 1"
        )
        self.alive = tables("SELECT owner, info FROM {worker} WHERE alive_until > ? AND alive_until <= ? + lease + 1")
        self.bury = tables("DELETE FROM {worker} WHERE alive_until <= ? OR alive_until > ? + lease + 1")
        self.leave = tables("UPDATE {worker} SET info = NULL WHERE owner = ?")
        self.beat = tables("UPDATE {worker} SET info = ? WHERE owner = ?")
        self.owners = tables("SELECT DISTINCT owner FROM {lease}")
        self.leases_of = tables("SELECT DISTINCT subscription FROM {lease} WHERE owner = ?")
        self.suspect = tables(
            "INSERT OR REPLACE INTO {suspect} (subscription, seq, attempt, failure) "
            "SELECT subscription, seq, attempt + alone, failure FROM {lease} WHERE owner = ?"
        )
        self.release = tables("DELETE FROM {lease} WHERE owner = ?")
        self.held = tables("SELECT seq, fence FROM {lease} WHERE subscription = ? AND owner = ? AND ")


class Liveness:
    """What the writer knows of workers.  Used with the writer's lock held."""

    def __init__(self, roll: Roll, sidecar: sqlite3.Connection, clock: Clock) -> None:
        self.lease = _LEASE
        self.until: dict[str, float] = {}
        self.beats: dict[str, float] = {}
        self._roll = roll
        self._sidecar = sidecar
        self._clock = clock
        self._sweep_at = float("-inf")

    def extend(self, owner: str, lease: float) -> None:
        """Let the owner's leases live for `lease` seconds more."""
        now = self._clock.monotonic()
        self.lease = lease
        if self.beats.get(owner, now) - now >= 0.75 * lease:  # its renewer beats, and will do so again in time
            return
        self._sidecar.execute(self._roll.extend, (owner, lease, now + lease))
        self.until[owner] = max(now + lease, self.until.get(owner, now))

    def pace(self, lease: float) -> None:
        """Look for the dead as often as leases of this length need it, from now on."""
        if lease < self.lease:
            self._sweep_at = min(self._sweep_at, self._clock.monotonic() + lease / 4)
        self.lease = lease

    def ended(self, owner: str) -> bool:
        """Whether the leases of an owner in this process have ended, as far as this process knows."""
        return self.until.get(owner, float("inf")) <= self._clock.monotonic()

    def sweep_needed(self, connection: sqlite3.Connection) -> bool:
        """Whether somebody died holding leases; looks only now and then."""
        now = self._clock.monotonic()
        if now < self._sweep_at:
            return False
        if self._dead(connection.execute(self._roll.owners).fetchall(), now):
            return True
        self._sidecar.execute(self._roll.bury, (now, now))
        self._looked(now)
        return False

    def sweep(self, transaction: Transaction, *, at_once: bool = False) -> None:
        """Make suspects of what the dead held, if it is time to look."""
        now = self._clock.monotonic()
        if now < self._sweep_at and not at_once:
            return
        if not self._sidecar.in_transaction:
            self._sidecar.execute("BEGIN IMMEDIATE")
            transaction.ended.append(lambda: self._swept(committed=transaction.committed))
        for owner in self._dead(transaction.execute(self._roll.owners).fetchall(), now):
            transaction.rung.update(row[0] for row in transaction.execute(self._roll.leases_of, (owner,)).fetchall())
            transaction.execute(self._roll.suspect, (owner,))
            transaction.execute(self._roll.release, (owner,))

    def close(self) -> None:
        """Let go of the connection."""
        self._sidecar.close()

    def _dead(self, owners: Sequence[tuple[str]], now: float) -> set[str]:
        if not owners:
            return set()
        alive = {owner for owner, _ in self._sidecar.execute(self._roll.alive, (now, now)).fetchall()}
        return {owner for (owner,) in owners} - alive

    def _looked(self, now: float) -> None:
        # Jittered, so that many processes do not look at once.
        self._sweep_at = now + self.lease / 4 * dice.uniform(0.75, 1.0)

    def _swept(self, *, committed: bool) -> None:
        """The main transaction has ended: only now may late owners look whether they have lost something."""
        now = self._clock.monotonic()
        try:
            if committed:
                self._sidecar.execute(self._roll.bury, (now, now))
                self._looked(now)
            self._sidecar.execute("COMMIT")
        except sqlite3.Error as error:  # what was extended with it is extended again at the next claim or beat
            log.warning("cannot write who lives: %s", error)
            self.beats.clear()
            if self._sidecar.in_transaction:
                self._sidecar.execute("ROLLBACK")


class Renewer:
    """Beats for one worker, from one thread.  Looks at the main file only when it was late."""

    def __init__(
        self,
        roll: Roll,
        clock: Clock,
        liveness: Liveness,
        *,
        main: Callable[[], sqlite3.Connection],
        sidecar: Callable[[], sqlite3.Connection],
        places: Sequence[Place],
        check: Callable[[], None],
        patience: float,
    ) -> None:
        self._roll = roll
        self._clock = clock
        self._liveness = liveness
        self._open_main = main
        self._open_sidecar = sidecar
        self._places = places
        self._check = check
        self._patience = patience
        self._lease: float | None = None
        self._sidecar: sqlite3.Connection | None = None
        self._path = places[0].path

    def renew(self, deliveries: Sequence[Delivery], lease: float) -> Collection[Delivery]:
        """Extend these leases; return those that are lost."""
        self._look()
        self._lease = lease
        lost: list[Delivery] = []
        for owner in {delivery.owner for delivery in deliveries}:
            if self._was_dead(owner, lease):
                lost += self._lost([delivery for delivery in deliveries if delivery.owner == owner])
        return lost

    def beat(self, worker: WorkerInfo) -> None:
        """Say that this worker lives, or that it is gone."""
        self._look()
        if worker.state == "gone":  # what it could not settle stays its own until the lease ends
            self._liveness.beats.pop(worker.owner, None)
            self._patiently(lambda sidecar: sidecar.execute(self._roll.leave, (worker.owner,)))
            return
        self._was_dead(worker.owner, self._lease or self._liveness.lease)
        seen = replace(worker, seen_at=datetime.fromtimestamp(self._clock.time(), UTC))
        self._patiently(lambda sidecar: sidecar.execute(self._roll.beat, (msgspec.json.encode(seen), worker.owner)))

    def close(self) -> None:
        """Let go of the connection."""
        if self._sidecar is not None:
            self._sidecar.close()
            self._sidecar = None

    def _look(self) -> None:
        self._check()
        for place in self._places:
            place.check()

    def _was_dead(self, owner: str, lease: float) -> bool:
        """Extend the owner's leases; whether they had ended before."""
        now = self._clock.monotonic()
        until = now + lease

        def act(sidecar: sqlite3.Connection) -> bool:
            # One statement, which waits for a sweep that may be taking them.  A transaction of several would hold the
            # lock for as long as a subscriber holds the interpreter between two of them, and starve every other worker.
            if sidecar.execute(self._roll.go_on, (until, lease, until, owner, now, now)).rowcount:
                return False
            sidecar.execute(self._roll.extend, (owner, lease, until))
            return True

        dead = self._patiently(act)
        self._liveness.beats[owner] = until
        self._liveness.until[owner] = max(until, self._liveness.until.get(owner, now))
        return dead

    def _lost(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Which of one owner's deliveries it no longer holds.  A short-lived connection: this is rare."""
        try:
            main = self._open_main()
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
        try:
            return patiently(lambda: self._not_held(main, deliveries), self._path, self._patience)
        finally:
            main.close()

    def _not_held(self, main: sqlite3.Connection, deliveries: Sequence[Delivery]) -> list[Delivery]:
        held: set[tuple[int, int, int]] = set()
        by_subscription: dict[int, list[int]] = {}
        for delivery in deliveries:
            subscription, seq = delivery.receipt
            by_subscription.setdefault(subscription, []).append(seq)
        for subscription, seqs in by_subscription.items():
            for condition, values in matching(sorted(seqs)):
                rows = main.execute(self._roll.held + condition, (subscription, deliveries[0].owner, *values))
                held.update((subscription, seq, fence) for seq, fence in rows.fetchall())
        return [delivery for delivery in deliveries if (*delivery.receipt, delivery.fence) not in held]

    def _patiently(self, act: Callable[[sqlite3.Connection], T]) -> T:
        def with_sidecar() -> T:
            if self._sidecar is None:
                self._sidecar = self._open_sidecar()
            return act(self._sidecar)

        return patiently(with_sidecar, self._path, self._patience)


def info_of(raw: object) -> WorkerInfo | None:
    """What a worker said of itself; None before its first beat."""
    if not isinstance(raw, bytes):
        return None
    try:
        return _INFO.decode(raw)
    except msgspec.MsgspecError:
        return None
