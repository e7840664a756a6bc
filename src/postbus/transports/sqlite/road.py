"""The transport: hands each call to the writer or to the reader, and says what their errors mean to the caller."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence, Set
from pathlib import Path
from typing import Any, Literal

from ...address import Settings
from ...delivery import Delivery, Outcome, Release
from ...drivers import Script
from ...errors import (
    Closed,
    ForkError,
    LeaseLost,
    NotAccepted,
    PublishFailed,
    PublishUnknown,
    TransportBroken,
    TransportError,
    TransportFull,
)
from ...transport import (
    Append,
    Claimed,
    Conflict,
    Duplicate,
    Outgoing,
    Refused,
    Renewer,
    Settle,
    Settled,
    SubscriptionSpec,
    Traits,
    Unknown,
)
from .appending import Appending
from .effects import end_effects
from .house import House
from .inspection import Inspection
from .operation import Operation
from .schema import Tables, missing, script
from .store import CommitLost, Full, Transaction, translated
from .within import Within

__all__ = ["SqliteTransport"]

# Of the publish timeout: what an append waits for the lock, so that its answer is definite before the caller gives up.
_SHARE = 0.9

_RELEASE = Release()

# What a value raises that no column can hold: a number beyond 64 bits, a lone surrogate.
_UNSTORABLE = (OverflowError, ValueError, sqlite3.ProgrammingError, sqlite3.InterfaceError)


class SqliteTransport(Inspection):
    """One file; in each process one connection that writes, and beside the file another one for who is alive."""

    def __init__(self, path: Path, settings: Settings, *, synchronous: str, patience: float, network: bool) -> None:
        self._path = path
        self._settings = settings
        self._synchronous = synchronous
        self._patience = patience
        self._network = network
        self._tables = Tables(settings.namespace)
        self._traits = Traits(name="sqlite", durable="disk" if synchronous == "FULL" else "os", lease_of="owner")
        self._appending = Appending(self._tables, settings.retain)
        self._enlisted = Within(path, self._tables, self._appending, settings.clock)
        self._pid = os.getpid()
        self._door = threading.Lock()
        self._house: House | None = None

    @property
    def traits(self) -> Traits:
        """What SQLite can promise."""
        return self._traits

    # -- its tables

    def sql(self) -> str:
        """See `Migrating.sql`."""
        return script(self._tables)

    async def missing(self) -> Sequence[str]:
        """See `Migrating.missing`."""
        return await asyncio.to_thread(self._missing)

    def _missing(self) -> Sequence[str]:
        if not self._path.exists():
            return [f"the file {self._path.name}"]
        try:
            with contextlib.closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)) as connection:
                return missing(connection, self._tables)
        except sqlite3.Error as error:
            raise translated(error, self._path) from error

    async def apply(self, told: Callable[[str], None]) -> None:
        """See `Migrating.apply`."""
        await self.open()
        await self.close()
        told(f"the tables are made in {self._path.name}")

    # -- open and close

    async def open(self) -> None:
        """Open the file, and make the tables that are missing."""
        if self._house is None:
            await asyncio.to_thread(self._open)

    def _open(self) -> None:
        self._check_process()
        with self._door:
            if self._house is None:
                self._house = House(
                    self._path,
                    self._tables,
                    self._settings,
                    synchronous=self._synchronous,
                    patience=self._patience,
                    network=self._network,
                )

    async def close(self) -> None:
        """Let go of connections and threads."""
        if self._pid != os.getpid():
            return  # they are the parent's
        house, self._house = self._house, None
        if house is not None:
            await asyncio.to_thread(house.close)

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ForkError(
                f"this transport belongs to process {self._pid}, and is used in process {os.getpid()} after a fork: "
                f"open a bus of its own in each process"
            )

    def _open_house(self) -> House:
        house = self._house
        if self._pid != os.getpid():
            self._check_process()
        if house is None:
            raise Closed(f"the transport of {self._path.name} is not open")
        return house

    # -- the road

    async def declare(self, subscriptions: Sequence[SubscriptionSpec], *, newest: bool = False) -> Sequence[Conflict]:
        """Make these subscriptions exist."""
        house = self._open_house()
        declaring = house.declaring
        conflicts = await house.writer.run(
            Operation(
                lambda transaction: declaring.declare(transaction, subscriptions, newest=newest),
                house.writer.deadline(self._patience),
                peek=lambda connection: [] if declaring.known(connection.execute, subscriptions) else None,
            )
        )
        while await self._fill(house):
            pass
        return conflicts

    async def _fill(self, house: House) -> bool:
        """Give newcomers some of what is stored; where there are none, without the write lock."""
        return await house.writer.run(
            Operation(
                house.declaring.fill,
                house.writer.deadline(self._patience),
                peek=lambda connection: False if house.declaring.filling.pending(connection.execute) is None else None,
            )
        )

    async def append(self, items: Sequence[Outgoing]) -> Sequence[Append]:
        """Store events and fan them out, in one commit with whatever else waits."""
        house = self._open_house()
        timeout = min(self._settings.publish_timeout * _SHARE, self._patience)
        try:
            return await house.writer.run(self._append_of(house, items, timeout), drop=True)
        except TransportError as error:
            return _answered(error, items)
        except _UNSTORABLE as error:
            if len(items) > 1:  # the others are not to suffer for it
                return [result for item in items for result in await self.append([item])]
            return [_unstorable(error)]

    def append_now(self, items: Sequence[Outgoing], timeout: float) -> Sequence[Append]:
        """Store events on the caller's thread."""
        house = self._open_house()
        try:
            return house.writer.run_now(self._append_of(house, items, min(timeout, self._patience)))
        except TransportError as error:
            return _answered(error, items)
        except _UNSTORABLE as error:
            if len(items) > 1:
                return [result for item in items for result in self.append_now([item], timeout)]
            return [_unstorable(error)]

    def _append_of(self, house: House, items: Sequence[Outgoing], timeout: float) -> Operation[list[Append]]:
        append = self._appending.append
        return Operation(lambda transaction: append(transaction, items), house.writer.deadline(timeout))

    async def wait(self, subscriptions: Collection[str], timeout: float) -> Set[str]:
        """The doorbell."""
        return await self._open_house().doorbell.wait(subscriptions, timeout)

    async def claim(self, subscription: str, *, owner: str, limit: int, lease: float, alone: bool = False) -> Claimed:
        """Lease deliveries; where there is nothing, without the write lock."""
        house = self._open_house()

        def act(transaction: Transaction) -> Claimed:
            house.liveness.sweep(transaction, at_once=house.liveness.ended(owner))
            return house.claiming.claim(transaction, subscription, owner=owner, limit=limit, lease=lease, alone=alone)

        operation = Operation(
            act,
            house.writer.deadline(self._patience),
            peek=lambda connection: house.claiming.peek(connection, subscription, lease=lease, alone=alone),
            orphan=lambda claimed: self._release(house, claimed),
            durable=not house.claiming.leapt,
        )
        return await house.writer.run(operation, drop=True)

    def _release(self, house: House, claimed: Claimed) -> None:
        """Nobody will run what a cancelled claim had taken: hand it back."""
        if claimed.deliveries:
            given = [(delivery, _RELEASE) for delivery in claimed.deliveries]
            house.writer.post(
                Operation(
                    lambda transaction: self._settle(house, transaction, given),
                    house.writer.deadline(self._patience),
                )
            )

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> Sequence[Settle]:
        """Store outcomes."""
        house = self._open_house()
        try:
            return await house.writer.run(
                Operation(
                    lambda transaction: self._settle(house, transaction, settlements),
                    house.writer.deadline(self._patience),
                )
            )
        except CommitLost as error:
            return [Unknown(error) for _ in settlements]

    def _settle(
        self, house: House, transaction: Transaction, settlements: Sequence[tuple[Delivery, Outcome]]
    ) -> list[Settle]:
        """Refuse what is late, also where nobody has noticed yet that the owner's leases ended."""
        if any(house.liveness.ended(owner) for owner in {delivery.owner for delivery, _ in settlements}):
            house.liveness.sweep(transaction, at_once=True)
        return house.settling.settle(transaction, settlements)

    def renewer(self) -> Renewer:
        """A renewer for one thread."""
        return self._open_house().renewer(self._check_process)

    # -- within the caller's transaction

    @property
    def dialect(self) -> Literal["postgresql", "sqlite"]:
        """SQLite."""
        return "sqlite"

    def append_within(self, items: Sequence[Outgoing]) -> Script[Sequence[Append]]:
        """See `Enlisting.append_within`."""
        identity = self._open_house().identity
        results: Sequence[Append] = yield lambda connection: self._append_on(connection, identity, items)
        return results

    def _append_on(
        self, connection: sqlite3.Connection, identity: bytes, items: Sequence[Outgoing]
    ) -> Sequence[Append]:
        try:
            return self._enlisted.append(connection, identity, items)
        except _UNSTORABLE as error:
            if len(items) > 1:
                return [result for item in items for result in self._append_on(connection, identity, [item])]
            return [_unstorable(error)]

    def surviving(self, ids: Sequence[bytes]) -> Script[Set[bytes]]:
        """See `Enlisting.surviving`."""
        kept: Set[bytes] = yield lambda connection: self._enlisted.surviving(connection, ids)
        return kept

    def committed(self, items: Sequence[Outgoing]) -> None:
        """Nothing to tell: whoever waits looks at `data_version`, which every commit changes."""

    def holds(self) -> Script[bool]:
        """See `Marking.holds`."""
        identity = self._open_house().identity
        held: bool = yield lambda connection: self._enlisted.holds(connection, identity)
        return held

    def begin_within(self, delivery: Delivery) -> Script[Settle | Duplicate]:
        """Settled and marked at once: whoever writes has the lock until the end anyway."""
        answer: Settle | Duplicate = yield lambda connection: self.done_within(connection, delivery)
        return answer

    def end_within(self, delivery: Delivery, *, repeated: bool) -> Script[Settle]:  # noqa: ARG002 - the contract's
        """Nothing is left to do."""
        return Settled()
        yield  # a script, of no steps

    # -- transactional subscribers

    def connect(self) -> sqlite3.Connection:
        """A connection for one transactional run."""
        return self._open_house().effects.connect()

    def try_begin(self, connection: Any) -> bool:
        """Begin on it, unless somebody else writes."""
        return self._open_house().effects.try_begin(connection)

    def done_within(self, connection: Any, delivery: Delivery) -> Settle | Duplicate:
        """Settle and mark inside its transaction."""
        house = self._open_house()
        if house.liveness.ended(delivery.owner):
            return LeaseLost(f"the leases of {delivery.owner!r} have ended")
        return house.effects.done_within(connection, delivery)

    def end(self, connection: Any, *, commit: bool) -> None:
        """End its transaction, and close it."""
        end_effects(connection, self._path, commit=commit)


def _answered(error: TransportError, items: Sequence[Outgoing]) -> list[Append]:
    """What an error means for events; one that ends the process's use of the file is raised."""
    result: Append
    match error:
        case TransportBroken():
            raise error
        case CommitLost():
            result = Unknown(PublishUnknown(f"{error}; it may be stored: publish again with the same id"))
        case Full():
            result = Refused(TransportFull(f"not stored: {error}"))
        case _:
            result = Refused(PublishFailed(f"not stored: {error}"))
    return [result] * len(items)


def _unstorable(error: BaseException) -> Refused:
    return Refused(NotAccepted(f"not stored: no column can hold it: {error}"))
