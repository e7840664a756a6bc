"""The PostgreSQL transport itself: open and closed, and what becomes of calls that are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Coroutine, Sequence, Set
from typing import Any, Literal, TypeVar

import psycopg

from ...address import Settings
from ...delivery import Delivery, Outcome, Release
from ...drivers import Script
from ...errors import Closed, ForkError, PostbusError
from ...finding import Finding
from ...transport import Append, Claimed, Conflict, Duplicate, Outgoing, Renewer, Settle, SubscriptionSpec, Traits
from .appending import Appending
from .bell import Bell
from .claiming import Claiming
from .declaring import Declaring
from .desk import Desk
from .effects import Effects
from .examining import examined
from .hastening import Hastening
from .line import Door, Line
from .recording import Memoirs
from .renewing import PostgresRenewer
from .routing import Registry
from .schema import Tables, migrate, missing
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
        self._loop = asyncio.get_running_loop()
        self._line = line
        self._registry = Registry(line, self._tables)
        self._bell = Bell(self._door, line, self._tables, self._registry, listens=self._listens)
        self._declaring = Declaring(line, self._tables, self._registry, self._bell.ring)
        self._settling = Settling(line, self._tables, self._registry, self._bell.ring)
        self._claiming = Claiming(line, self._tables, self._settling, self._settings.clock)
        self._appending = Appending(
            line,
            self._tables,
            self._registry,
            retain=self._settings.retain,
            patience=min(self._settings.publish_timeout * _SHARE, self._door.patience),
            bell=self._bell,
        )
        ((identity,),) = await line.ask(self._tables("SELECT uuid_send(identity) FROM postbus.meta"), ())
        self._within = Within(self._tables, self._registry, self._appending.statements, self._settings.retain, identity)
        self._effects = Effects(self._door, self._tables, size=self._door.transactions)
        self._memoirs = Memoirs(line, self._tables, self._settings.clock)
        self._hastening = Hastening(line, self._tables)
        self._upkeep = Upkeep(line, self._tables, self._declaring, retain=self._settings.retain)
        if self._settings.retain is not None:
            await self._upkeep.partition()
        self._open = True

    async def close(self) -> None:
        """Hang up, when what is under way has ended."""
        if not self._open or self._pid != os.getpid():
            return
        self._open = False
        await self._upkeep.close()
        while ending := tuple(self._background):
            await asyncio.gather(*ending, return_exceptions=True)
            self._background.difference_update(ending)  # from 3.12 on, waiting for what has ended lets no callback run
        await self._bell.close()
        await self._effects.close()
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

    def sql(self) -> str:
        """See `Migrating.sql`."""
        return self._tables.script()

    async def missing(self) -> Sequence[str]:
        """See `Migrating.missing`."""
        line = Line(self._door)
        try:
            return await missing(line, self._tables)
        finally:
            await line.close()

    async def apply(self, told: Callable[[str], None]) -> None:
        """See `Migrating.apply`."""
        line = Line(self._door)
        try:
            await migrate(line, self._tables, told)
        finally:
            await line.close()

    async def examine(self) -> Sequence[Finding]:
        """How the server stands."""
        self._check()
        retains = self._settings.retain is not None
        return await self._whole(examined(self._line, self._tables, listens=self._listens, retains=retains))

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

    # -- transactional subscribers

    def connect(self) -> psycopg.Connection[Any]:
        """A connection for one transactional run in a thread."""
        self._check()
        return self._effects.connect()

    def try_begin(self, connection: Any) -> bool:  # noqa: ARG002 - the contract's
        """Nobody is in the way; `done_within` begins."""
        return True

    def done_within(self, connection: Any, delivery: Delivery) -> Settle | Duplicate:
        """Begin, and look at the lease and the mark; `end` settles."""
        self._check()
        return self._effects.done_within(connection, delivery)

    def end(self, connection: Any, *, commit: bool) -> None:
        """Settle, mark and commit, or roll back."""
        self._check_process()
        self._effects.end(connection, commit=commit)

    async def begin_async(self, delivery: Delivery) -> tuple[Any, Settle | Duplicate]:
        """Begin on a connection for the event loop, and look at the lease and the mark; `end_async` settles."""
        self._check()
        return await self._effects.begin_async(delivery)

    async def end_async(self, connection: Any, *, commit: bool) -> None:
        """Settle, mark and commit, or roll back."""
        self._check_process()
        await self._whole(self._effects.end_async(connection, commit=commit))

    # -- within the caller's transaction

    @property
    def dialect(self) -> Literal["postgresql", "sqlite"]:
        """PostgreSQL."""
        return "postgresql"

    def append_within(self, items: Sequence[Outgoing]) -> Script[Sequence[Append]]:
        """See `Enlisting.append_within`."""
        self._check()
        return self._within.append(items)

    def surviving(self, ids: Sequence[bytes]) -> Script[Set[bytes]]:
        """See `Enlisting.surviving`."""
        return self._within.surviving(ids)

    def committed(self, items: Sequence[Outgoing]) -> None:
        """Ring for whoever takes these."""
        routing = self._registry.last
        if routing is None or not self._open:
            return
        ids = {id_ for item in items for id_ in routing.route(item.envelope.name, item.envelope.log).ids}
        with contextlib.suppress(RuntimeError):  # its loop has ended: the workers elsewhere poll
            self._loop.call_soon_threadsafe(self._bell.ring, ids)

    def holds(self) -> Script[bool]:
        """See `Marking.holds`."""
        self._check()
        return self._within.holds()

    def begin_within(self, delivery: Delivery) -> Script[Settle | Duplicate]:
        """See `Marking.begin_within`."""
        self._check()
        return self._within.begin(delivery)

    def end_within(self, delivery: Delivery, *, repeated: bool) -> Script[Settle]:
        """See `Marking.end_within`."""
        self._check()
        return self._within.end(delivery, repeated=repeated)
