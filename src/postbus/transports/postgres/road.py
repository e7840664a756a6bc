"""The PostgreSQL transport itself: open and closed, and what becomes of calls that are cancelled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Coroutine, Sequence, Set
from typing import Any, TypeVar

import psycopg

from ...address import Settings
from ...delivery import Delivery, Outcome, Release
from ...errors import Closed, ConfigError, ForkError, PostbusError
from ...transport import Append, Claimed, Conflict, Outgoing, Renewer, Settle, SubscriptionSpec, Traits
from .appending import Appending
from .bell import Bell
from .claiming import Claiming
from .declaring import Declaring
from .desk import Desk
from .line import Door, Line
from .renewing import PostgresRenewer
from .routing import Registry
from .schema import Tables, migrate
from .settling import Settling
from .upkeep import Upkeep
from .within import Within

__all__ = ["PostgresTransport"]

T = TypeVar("T")

_RELEASE = Release()
# Of the publish timeout: so that its answer is definite before the caller gives up.
_SHARE = 0.9


class PostgresTransport(Desk):
    """See `connect`."""

    def __init__(self, door: Door, tables: Tables, settings: Settings, *, listen: bool) -> None:
        self._door = door
        self._tables = tables
        self._settings = settings
        self._listens = listen
        self._traits = Traits(name="postgresql", durable="disk")
        self._pid = os.getpid()
        self._open = False
        self._background: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<postgresql transport of {self._door}>"

    @property
    def traits(self) -> Traits:
        """What PostgreSQL can promise."""
        return self._traits

    # -- open and close

    async def open(self) -> None:
        """Connect, and make or migrate the schema."""
        self._check_process()
        if self._open:
            return
        line = Line(self._door)
        try:
            await migrate(line, self._tables)
        except BaseException:
            await line.close()
            raise
        self._line = line
        self._registry = Registry(line, self._tables)
        self._bell = Bell(self._door, line, self._tables, self._registry, listens=self._listens)
        self._declaring = Declaring(line, self._tables, self._registry, self._bell.ring)
        self._settling = Settling(line, self._tables, self._registry, self._bell.ring)
        self._claiming = Claiming(line, self._tables, self._settling)
        self._appending = Appending(
            line,
            self._tables,
            self._registry,
            retain=self._settings.retain,
            patience=min(self._settings.publish_timeout * _SHARE, self._door.patience),
            ring=self._bell.ring,
        )
        ((identity,),) = await line.ask(self._tables("SELECT uuid_send(identity) FROM postbus.meta"), ())
        self._within = Within(self._tables, self._registry, self._appending.statements, self._settings.retain, identity)
        self._upkeep = Upkeep(line, self._tables, self._declaring)
        self._open = True

    async def close(self) -> None:
        """Hang up, when what is under way has ended."""
        if not self._open or self._pid != os.getpid():
            return
        self._open = False
        await self._upkeep.close()
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        await self._bell.close()
        await self._line.close()

    def _check(self) -> None:
        """Raise unless it is open, here."""
        self._check_process()
        if not self._open:
            raise Closed(f"the transport of {self._door} is not open")

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ForkError(
                f"the transport of {self._door} belongs to process {self._pid}, and is used in process {os.getpid()} "
                f"after a fork: open a bus of its own in each process"
            )

    def _ring(self, ids: Collection[int]) -> None:
        self._bell.ring(ids)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """What is cancelled goes on to its end: half a statement would cost the connection."""
        return await asyncio.shield(self._spawn(work))

    async def _ask(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self._check()
        return await self._whole(super()._ask(sql, values))

    # -- the road

    async def declare(self, subscriptions: Sequence[SubscriptionSpec], *, newest: bool = False) -> Sequence[Conflict]:
        """See `Transport.declare`."""
        self._check()
        return await self._whole(self._declaring.declare(subscriptions, newest=newest))

    async def append(self, items: Sequence[Outgoing]) -> Sequence[Append]:
        """See `Transport.append`."""
        self._check()
        if not items:
            return []
        return await self._whole(self._appending.append(items))

    async def wait(self, subscriptions: Collection[str], timeout: float) -> Set[str]:
        """See `Transport.wait`."""
        self._check()
        await self._registry.routing()
        return await self._bell.wait(subscriptions, timeout)

    async def claim(self, subscription: str, *, owner: str, limit: int, lease: float, alone: bool = False) -> Claimed:
        """See `Transport.claim`."""
        self._check()
        claiming = self._spawn(self._claiming.claim(subscription, owner, limit, lease, alone=alone))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            self._spawn(self._hand_back(claiming))
            raise

    async def _hand_back(self, claiming: asyncio.Task[Claimed]) -> None:
        """Nobody waits for what this claim gives."""
        try:
            claimed = await claiming
            if claimed.deliveries:
                await self._settling.settle([(delivery, _RELEASE) for delivery in claimed.deliveries])
        except PostbusError:  # its leases end by themselves
            return

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> Sequence[Settle]:
        """See `Transport.settle`."""
        self._check()
        if not settlements:
            return []
        return await self._whole(self._settling.settle(settlements))

    def renewer(self) -> Renewer:
        """See `Transport.renewer`."""
        self._check()
        return PostgresRenewer(self._door, self._tables, self._check_process)

    # -- within the caller's transaction

    def enlists(self, connection: object) -> bool:
        """Whether it is psycopg's connection for threads."""
        return isinstance(connection, psycopg.Connection)

    def append_within(self, connection: Any, items: Sequence[Outgoing]) -> Sequence[Append]:
        """Append in the transaction that is open on the caller's connection, or that it opens by itself."""
        self._check()
        if not isinstance(connection, psycopg.Connection):
            raise ConfigError(f"within= a {type(connection).__qualname__}: expected a psycopg.Connection")
        return self._within.append(connection, items)

    def surviving(self, connection: Any, ids: Sequence[bytes]) -> Set[bytes]:
        """Which of these appended events no savepoint has rolled back."""
        self._check()
        return self._within.surviving(connection, ids)
