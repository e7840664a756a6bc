"""Transactional subscribers in transactions that `Bus(transactions=...)` gives: a session factory, a pool, an alias.

A delivery that lives in the same database is settled in the same transaction.  Else a mark is written there first,
and the delivery is settled afterwards: when that is lost, the next run finds the mark.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence, Set
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, TypeVar
from uuid import UUID

from .adapters import Source, source_of, transaction_of
from .delivery import Delivery
from .dispatch import AlreadyDone, NotBegun
from .drivers import Driver, Script, away, collides, driver_of, perform, perform_async
from .enlisting import Marking, Remembering
from .errors import ConfigError, LeaseLost, PostbusError, TransportError
from .failure import one_line
from .marks import Marks
from .migrating import Migrating
from .observe import log
from .subscription import Subscriber
from .transaction import Followers, Pending, Tx, begin_async, end, end_async
from .transport import Duplicate, Inspectable, Settle, Settled, Transport, Unknown

__all__ = ["Given", "given_by"]

T = TypeVar("T")

# Seconds between two times of tidying up.
_TIDY = 60.0


def given_by(
    transactions: object, namespace: str, followers: Followers, transport: Callable[[], Awaitable[Transport]]
) -> Given | None:
    """What `Bus(transactions=...)` gives, if anything.

    Raises:
        ConfigError: when it opens no transactions.
    """
    return None if transactions is None else Given(source_of(transactions), Marks(namespace), followers, transport)


class Given:
    """See `Transactions` in dispatch.

    Args:
        transport: how to get at the one in use.

    Attributes:
        settles: whether deliveries live in that database, and are settled with the commit.
    """

    def __init__(
        self, source: Source, marks: Marks, followers: Followers, transport: Callable[[], Awaitable[Transport]]
    ) -> None:
        self._source = source
        self._marks = marks
        self._followers = followers
        self._transport = transport
        self._marking: Marking | None = None
        self._ids: dict[str, str] = {}
        self._made = False
        self._making: asyncio.Lock | None = None
        self._tidied = time.monotonic()
        self._tidying: asyncio.Task[None] | None = None

    @property
    def settles(self) -> bool:
        """See the class."""
        return self._marking is not None

    def conflicted(self, error: BaseException) -> bool:
        """Whether it met another transaction."""
        return collides(error)

    def refuse(self, subscriber: Subscriber) -> None:
        """Refuse one that could not use what is given.

        Raises:
            ConfigError: saying which of the two to change.
        """
        awaited = self._source.asynchronous
        if awaited is not None and awaited is not subscriber.signature.is_async:
            kind = "`async def`" if subscriber.signature.is_async else "a plain `def`"
            raise ConfigError(
                f"subscriber {subscriber.name!r} is {kind}, and what transactions= gives is "
                f"{'' if awaited else 'not '}awaited: change the one or the other"
            )

    # -- before the first run, and now and then

    async def prepare(self, subscription: str) -> None:
        """Find out where the deliveries live, make the table of marks if they live elsewhere, and tidy it."""
        with _Beginning():
            await self._prepare(subscription)

    async def _prepare(self, subscription: str) -> None:
        if not self._made:
            self._making = self._making or asyncio.Lock()
            async with self._making:
                if not self._made:
                    await self.make()
        if self._marking is None:
            if subscription not in self._ids:
                await self._learn(subscription)
            if time.monotonic() - self._tidied > _TIDY and (self._tidying is None or self._tidying.done()):
                self._tidied = time.monotonic()
                self._tidying = asyncio.get_running_loop().create_task(self._tidy())

    async def make(self) -> None:
        """Make the table of marks, where one is needed."""
        transport = await self._transport()
        marking = transport if isinstance(transport, Marking) else None
        held = marking is not None and await self._alone(lambda driver: _holds(driver, marking))
        if held:
            self._marking = marking
        else:
            await self._alone(lambda driver: self._marks.make(driver.dialect))
        self._made = True

    # -- for who makes tables otherwise, with the transport of a bus that is not open

    async def sql(self, transport: Transport) -> str:
        """The statements that make the table of marks; empty where that database holds the deliveries."""
        if await self._is_near(transport):
            return ""
        return "\n".join(("BEGIN;", *(f"{one};" for one in await self._alone(self._statements)), "COMMIT;"))

    async def missing(self, transport: Transport) -> Sequence[str]:
        """What of it is not there, by name.  Changes nothing."""
        if await self._is_near(transport):
            return ()
        return await self._alone(lambda driver: self._marks.missing(driver.dialect))

    async def apply(self, told: Callable[[str], None]) -> None:
        """Make it."""
        await self._alone(lambda driver: self._marks.make(driver.dialect))
        told(f"the table {self._marks.table} is made")

    async def _is_near(self, transport: Transport) -> bool:
        """Whether the deliveries live there, as far as can be told: they do not where they have no tables yet."""
        if not isinstance(transport, Marking) or (isinstance(transport, Migrating) and await transport.missing()):
            return False
        await transport.open()
        try:
            return await self._alone(lambda driver: _holds(driver, transport))
        finally:
            await transport.close()

    def _statements(self, driver: Driver) -> Script[Sequence[str]]:
        yield from ()
        return self._marks.sql(driver.dialect)

    # -- what is done

    async def _learn(self, subscription: str) -> None:
        """Its immutable id: marks outlive a renaming."""
        transport = await self._transport()
        found = await transport.subscriptions() if isinstance(transport, Inspectable) else ()
        self._ids = {info.name: info.id for info in found}
        self._ids.setdefault(subscription, subscription)

    async def done(self, subscription: str, ids: Sequence[UUID]) -> Set[UUID]:
        """See `Remembering`."""
        await self.prepare(subscription)
        if isinstance(self._marking, Remembering):
            return await self._marking.done(subscription, ids)
        return await self._alone(lambda driver: self._done(driver, self._ids[subscription], ids))

    def _done(self, driver: Driver, subscription: str, ids: Sequence[UUID]) -> Script[set[UUID]]:
        found: set[UUID] = set()
        for id_ in ids:
            if (yield from self._marks.done(driver.dialect, subscription, id_.bytes)):
                found.add(id_)
        return found

    async def forget(self, subscription: str, ids: Sequence[UUID]) -> None:
        """See `Remembering`."""
        await self.prepare(subscription)
        if isinstance(self._marking, Remembering):
            await self._marking.forget(subscription, ids)
        else:
            await self._alone(lambda driver: self._forget(driver, self._ids[subscription], ids))

    def _forget(self, driver: Driver, subscription: str, ids: Sequence[UUID]) -> Script[None]:
        for id_ in ids:
            yield from self._marks.forget(driver.dialect, subscription, id_.bytes)

    async def _tidy(self) -> None:
        try:
            more = True
            while more:
                more = await self._alone(lambda driver: self._marks.prune(driver.dialect))
        except Exception as error:  # noqa: BLE001 - each client has errors of its own; the next one finds what is left
            log.warning("done marks older than 7 days could not be deleted: %s", error)

    async def _alone(self, script: Callable[[Driver], Script[T]]) -> T:
        """Run a script in a transaction of its own."""
        opened: Any
        if self._source.asynchronous:
            opened = self._source.open()
        else:
            result, opened = await asyncio.to_thread(self._alone_in_thread, script)
            if opened is None:
                return result  # type: ignore[no-any-return]
        async with opened as held:
            tx = transaction_of(held)
            async with _transaction_async(tx, Pending(self._followers)) as (driver, connection):
                return await perform_async(driver, connection, script(driver))

    def _alone_in_thread(self, script: Callable[[Driver], Script[T]]) -> tuple[Any, Any]:
        """The same with a connection that may know but one thread; what turns out to be awaited is handed back."""
        opened = self._source.open()
        if not hasattr(opened, "__enter__"):
            return None, opened
        with opened as held:
            tx = transaction_of(held)
            with _transaction(tx, Pending(self._followers)) as (driver, connection):
                return perform(driver, connection, script(driver)), None

    # -- one run

    @contextmanager
    def inside(self, delivery: Delivery) -> Iterator[Any]:
        """For a subscriber in a thread."""
        with _Beginning() as beginning:
            opened = self._source.open()
            if not hasattr(opened, "__enter__"):
                raise _misfit(opened, "`async def`")
            with opened as held:
                tx = transaction_of(held)
                with self._followed(tx) as pending, _transaction(tx, pending) as (driver, connection):
                    repeated = _repeated(perform(driver, connection, self._begin(driver, delivery)))
                    beginning.over = True
                    if not repeated:
                        yield held
                    _repeated(perform(driver, connection, self._end(delivery, repeated=repeated)))
        if repeated:
            raise AlreadyDone
        pending.committed()

    @asynccontextmanager
    async def inside_async(self, delivery: Delivery) -> AsyncIterator[Any]:
        """For a subscriber in the event loop."""
        with _Beginning() as beginning:
            opened = self._source.open()
            if not hasattr(opened, "__aenter__"):
                raise _misfit(opened, "a plain `def`")
            async with opened as held:
                tx = transaction_of(held)
                with self._followed(tx) as pending:
                    async with _transaction_async(tx, pending) as (driver, connection):
                        repeated = _repeated(await perform_async(driver, connection, self._begin(driver, delivery)))
                        beginning.over = True
                        if not repeated:
                            yield held
                        _repeated(await perform_async(driver, connection, self._end(delivery, repeated=repeated)))
        if repeated:
            raise AlreadyDone
        await pending.committed_async()

    @contextmanager
    def _followed(self, tx: Tx) -> Iterator[Pending]:
        """What the subscriber publishes waits for our commit, unless its session tells of that itself."""
        pending = Pending(self._followers)
        if tx.pending(self._followers) is not None:
            yield pending
            return
        self._followers.joined[id(tx.given)] = pending
        try:
            yield pending
        finally:
            del self._followers.joined[id(tx.given)]

    def _begin(self, driver: Driver, delivery: Delivery) -> Script[Settle | Duplicate]:
        if self._marking is not None:
            return (yield from self._marking.begin_within(delivery))
        subscription = self._ids[delivery.subscription]
        match (yield from self._marks.mark(driver.dialect, subscription, delivery.envelope.id_bytes)):
            case "new":
                return Settled()
            case "done":
                return Duplicate()
            case "busy":
                raise NotBegun(f"another run of event {delivery.envelope.id} for {delivery.subscription!r} is not over")

    def _end(self, delivery: Delivery, *, repeated: bool) -> Script[Settle]:
        if self._marking is not None:
            return (yield from self._marking.end_within(delivery, repeated=repeated))
        return Settled()


class _Beginning:
    """Until it is over, a database that cannot be had is not the event's fault.

    Attributes:
        over: whether the subscriber may have run.
    """

    def __init__(self) -> None:
        self.over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None and not self.over and (isinstance(error, TransportError) or away(error)):
            raise NotBegun(f"no transaction can begin: {one_line(str(error))}") from error


def _holds(driver: Driver, marking: Marking) -> Script[bool]:
    return (yield from marking.holds()) if marking.dialect == driver.dialect else False


def _repeated(answer: Settle | Duplicate) -> bool:
    """Whether it had been done before."""
    match answer:
        case Settled():
            return False
        case Duplicate():
            return True
        case LeaseLost() as lost:
            raise lost
        case Unknown(error):
            raise error


@contextmanager
def _transaction(tx: Tx, pending: Pending) -> Iterator[tuple[Driver, Any]]:
    if tx.asynchronous:
        raise _misfit(tx.given, "`async def`")
    tx.begin()
    try:
        connection = tx.raw()
        yield _driver(connection), connection
    except BaseException:
        end(tx, pending, failed=True)
        raise
    end(tx, pending, failed=False)


@asynccontextmanager
async def _transaction_async(tx: Tx, pending: Pending) -> AsyncIterator[tuple[Driver, Any]]:
    if not tx.asynchronous:
        raise _misfit(tx.given, "a plain `def`")
    await begin_async(tx)
    try:
        connection = await tx.raw()
        yield _driver(connection), connection
    except BaseException:
        await end_async(tx, pending, failed=True)
        raise
    await end_async(tx, pending, failed=False)


def _driver(connection: Any) -> Driver:
    driver = driver_of(connection)
    if driver is None:
        raise ConfigError(f"transactions= leads to a {type(connection).__qualname__}, which postbus cannot write with")
    driver.refuse_autocommit(connection)
    return driver


def _misfit(opened: object, what: str) -> PostbusError:
    return ConfigError(
        f"transactions= gives a {type(opened).__qualname__}, which a subscriber can use that is {what}: change the one "
        f"or the other"
    )
