"""The caller's transactions: what publishing and committing need to know of them, and our own on raw connections.

A raw driver connection has no commit hook: `bus.transaction(connection)` begins, commits, and knows what follows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence, Set
from types import TracebackType
from typing import Any, Protocol, Self

from .drivers import Driver, Script, driver_of, perform, perform_async
from .envelope import Envelope
from .errors import ConfigError
from .transport import Outgoing

__all__ = ["After", "Followers", "Pending", "RawTx", "Transaction", "Tx", "begin_async", "end", "end_async"]

After = tuple[object, Envelope]


class Followers:
    """What a bus does around the commit of a transaction: told once, by the bus.

    Attributes:
        surviving: which of these ids no savepoint has taken back, as a script.
        committed: what to do when these were committed, beside the handlers: to ring the bell.
        run, run_sync: run after-commit handlers.
        joined: what waits for the commits of transactional subscribers, by the id of what they were given.
    """

    __slots__ = ("committed", "joined", "run", "run_sync", "surviving")

    def __init__(
        self,
        surviving: Callable[[Sequence[bytes]], Script[Set[bytes]]],
        committed: Callable[[Sequence[Outgoing]], None],
        run: Callable[[Sequence[After]], Awaitable[None]],
        run_sync: Callable[[Sequence[After]], None],
    ) -> None:
        self.surviving = surviving
        self.committed = committed
        self.run = run
        self.run_sync = run_sync
        self.joined: dict[int, Pending] = {}

    def pending(self, tx: Tx) -> Pending | None:
        """What waits for this commit; None where nobody would tell of it."""
        return tx.pending(self) or self.joined.get(id(tx.given))


class Pending:
    """The events published in one transaction whose bell and after-commit handlers wait for its commit.

    Attributes:
        stored: whether it was committed, for who learns that before the handlers may run.
    """

    __slots__ = ("_after", "_connection", "_driver", "_followers", "_items", "stored")

    def __init__(self, followers: Followers) -> None:
        self._followers = followers
        self._connection: Any = None
        self._driver: Driver | None = None
        self._items: list[Outgoing] = []
        self._after: list[After] = []
        self.stored = False

    @property
    def asynchronous(self) -> bool:
        """Whether what was published went over a connection that is awaited."""
        return self._driver is not None and self._driver.asynchronous

    def follow(self, connection: Any, items: Sequence[Outgoing], after: Sequence[After]) -> None:
        """Remember what was appended on this connection, and those of it that have after-commit handlers."""
        self._connection = connection
        self._driver = driver_of(connection)
        self._items.extend(items)
        self._after.extend(after)

    # -- just before the commit

    def weigh(self) -> None:
        """Forget what a savepoint has taken back."""
        if self._driver is not None and self._after:
            self._keep(perform(self._driver, self._connection, self._followers.surviving(self._ids)))

    async def weigh_async(self) -> None:
        """As `weigh`, for what is awaited."""
        if self._driver is not None and self._after:
            if self._driver.asynchronous:
                self._keep(await perform_async(self._driver, self._connection, self._followers.surviving(self._ids)))
            else:
                self.weigh()

    @property
    def _ids(self) -> list[bytes]:
        return [envelope.id_bytes for _, envelope in self._after]

    def _keep(self, ids: Set[bytes]) -> None:
        self._after = [(event, envelope) for event, envelope in self._after if envelope.id_bytes in ids]

    # -- after it

    def committed(self) -> None:
        """Ring the bell, and run the after-commit handlers."""
        self._ring()
        if self._after:
            self._followers.run_sync(self._after)

    async def committed_async(self) -> None:
        """As `committed`, awaiting handlers that are `async def`."""
        self._ring()
        if self._after:
            await self._followers.run(self._after)

    def _ring(self) -> None:
        if self._items:
            self._followers.committed(self._items)


class Tx(Protocol):
    """A transaction of the caller's.  Where `asynchronous`, all but `pending` is awaited.

    Attributes:
        given: what the caller gave, and handlers get as `context.tx`.
        asynchronous: whether its calls are awaited.
    """

    @property
    def given(self) -> Any:
        """See the class."""
        ...

    @property
    def asynchronous(self) -> bool:
        """See the class."""
        ...

    def raw(self) -> Any:
        """The driver's connection, in the transaction that will be committed.

        Raises:
            ConfigError: when there is none, and nothing would begin it.
        """
        ...

    def pending(self, followers: Followers) -> Pending | None:
        """What waits for its commit; None where it does not tell of that by itself."""
        ...

    def begin(self) -> Any:
        """Begin a transaction that may write."""
        ...

    def commit(self) -> Any:
        """Commit it."""
        ...

    def rollback(self) -> Any:
        """Roll it back."""
        ...

    def discard(self) -> Any:
        """Let nobody use its connection again: what that holds is not known."""
        ...


class RawTx:
    """A transaction on a driver's own connection, which tells nobody of its commit."""

    __slots__ = ("_driver", "asynchronous", "given")

    def __init__(self, connection: Any, driver: Driver) -> None:
        self.given = connection
        self.asynchronous = driver.asynchronous
        self._driver = driver

    def raw(self) -> Any:
        """The connection itself."""
        return _soon(self.given) if self.asynchronous else self.given

    def pending(self, followers: Followers) -> Pending | None:  # noqa: ARG002 - as Tx has it
        """Nobody knows."""
        return None

    def begin(self) -> Any:
        """See `Tx`.

        Raises:
            ConfigError: when one is open already.
        """
        if self._driver.in_transaction(self.given):
            raise ConfigError("the connection is in a transaction already: pass it as within=, or commit it first")
        return self._driver.begin(self.given)

    def commit(self) -> Any:
        """See `Tx`."""
        return self._driver.commit(self.given)

    def rollback(self) -> Any:
        """See `Tx`.  One that broke has nothing to roll back any more: what broke it is the error to be heard."""
        return self.discard() if _is_closed(self.given) else self._driver.rollback(self.given)

    def discard(self) -> Any:
        """See `Tx`."""
        return self._driver.discard(self.given)


async def _soon(value: Any) -> Any:
    return value


def _is_closed(connection: Any) -> bool:
    """As its client says it, by an attribute or a call; those of SQLite do not break."""
    closed = getattr(connection, "closed", None) or getattr(connection, "is_closed", None)
    return bool(closed() if callable(closed) else closed)


class Transaction:
    """One transaction: `within=tx` publishes in it, and its after-commit handlers run when it has committed.

    Made by `bus.transaction(connection)`; used with `with`, or with `async with` for what belongs to an event loop.
    Attributes it does not have are the connection's, so `tx.execute(...)` works.

    Attributes:
        connection: what was given.
    """

    def __init__(self, tx: Tx, followers: Followers, ready: Callable[[], None]) -> None:
        self.connection = tx.given
        self._ready = ready
        self._tx = tx
        self._followers = followers
        self._pending = Pending(followers)
        self._open = False

    def enlisted(self) -> Tx:
        """The transaction itself, for publishing in it.

        Raises:
            ConfigError: before its block was entered, and after it was left: nobody would commit what is written.
        """
        if not self._open:
            raise ConfigError("this transaction is not open: publish inside its `with` block")
        return self._tx

    def pending(self, followers: Followers) -> Pending | None:
        """What waits for its commit, of the bus that began it."""
        return self._pending if followers is self._followers else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    # -- with

    def __enter__(self) -> Self:
        if self._tx.asynchronous:
            raise ConfigError(
                f"a {type(self.connection).__qualname__} belongs to an event loop: use "
                f"`async with bus.transaction(...)`"
            )
        self._ready()  # later our own lock may keep it from opening
        self._tx.begin()
        self._open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        end(self._tx, self._pending, failed=kind is not None)
        if kind is None:
            self._pending.committed()

    # -- async with

    async def __aenter__(self) -> Self:
        if self._tx.asynchronous:
            await begin_async(self._tx)
        else:
            self._tx.begin()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        if self._tx.asynchronous:
            await end_async(self._tx, self._pending, failed=kind is not None)
        else:
            end(self._tx, self._pending, failed=kind is not None)
        if kind is None:
            await self._pending.committed_async()


def end(tx: Tx, pending: Pending, *, failed: bool) -> None:
    """Commit, or roll back; whoever gets the connection next finds nothing open on it."""
    try:
        if not failed:
            pending.weigh()
            tx.commit()
            return
    except BaseException:
        _take_back(tx)
        raise
    _take_back(tx)


def _take_back(tx: Tx) -> None:
    try:
        tx.rollback()
    except BaseException:
        tx.discard()
        raise


async def begin_async(tx: Tx) -> None:
    """Begin; one that was cancelled meanwhile may have begun all the same."""
    beginning = tx.begin()
    try:
        await beginning
    except BaseException:
        await _take_back_async(tx)
        raise


async def end_async(tx: Tx, pending: Pending, *, failed: bool) -> None:
    """As `end`, for what is awaited."""
    try:
        if not failed:
            await pending.weigh_async()
            await tx.commit()
            return
    except BaseException:
        await _take_back_async(tx)
        raise
    await _take_back_async(tx)


async def _take_back_async(tx: Tx) -> None:
    try:
        await tx.rollback()
    except BaseException:
        await tx.discard()
        raise
