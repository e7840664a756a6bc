"""Appends that join the caller's transaction: on its connection, at once, and nothing that would be a lie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from typing import Any

from .adapters import transaction_of
from .drivers import Driver, Script, driver_of, perform, perform_async
from .enlisting import Enlisting
from .errors import ConfigError
from .local import Route
from .transaction import After, Followers, Pending, Transaction, Tx
from .transport import Append, Outgoing, Transport

__all__ = ["Joined", "Joining"]


class Joined:
    """One publish's part in a transaction.

    Attributes:
        tx: the transaction.
        pending: what waits for its commit; None where nobody tells of that.
    """

    __slots__ = ("_connection", "_driver", "_given", "pending", "tx")

    def __init__(self, given: object, tx: Tx, pending: Pending | None) -> None:
        self._given = given
        self.tx = tx
        self.pending = pending
        self._connection: Any = None
        self._driver: Driver | None = None

    def refuse_unheard(self, routes: Iterable[Route]) -> None:
        """Refuse what could not run after the commit.

        Raises:
            ConfigError: naming the handler, and what to do.
        """
        for route in routes:
            for bound in route.after:
                if self.pending is None:
                    raise ConfigError(
                        f"{bound.label} runs after the commit of {route.name}, and a raw "
                        f"{type(self._given).__qualname__} does not say when that is: use "
                        f"bus.transaction(connection), and publish within that"
                    )
                if bound.is_async and not self.tx.asynchronous and not isinstance(self._given, Transaction):
                    raise ConfigError(
                        f"{bound.label} is `async def` and runs after the commit of {route.name}, which a "
                        f"{type(self._given).__qualname__} does not await: make it a `def`, or use an AsyncSession"
                    )

    def enter(self) -> tuple[Driver, Any]:
        """The driver's connection, in a transaction.

        Raises:
            ConfigError: where it is in none.
        """
        if self._driver is None:
            return self._checked(self.tx.raw())
        return self._driver, self._connection

    async def enter_async(self) -> tuple[Driver, Any]:
        """As `enter`, where that is awaited."""
        if self._driver is None:
            return self._checked(await self.tx.raw() if self.tx.asynchronous else self.tx.raw())
        return self._driver, self._connection

    def _checked(self, connection: Any) -> tuple[Driver, Any]:
        driver = driver_of(connection)
        if driver is None:
            raise ConfigError(f"within= leads to a {type(connection).__qualname__}, which postbus cannot write with")
        driver.refuse_autocommit(connection)
        self._driver, self._connection = driver, connection
        return driver, connection


class Joining:
    """What is published within transactions, on one bus.

    Args:
        run, run_sync: run after-commit handlers.
    """

    def __init__(
        self, run: Callable[[Sequence[After]], Awaitable[None]], run_sync: Callable[[Sequence[After]], None]
    ) -> None:
        self.followers = Followers(self._surviving, self._committed, run, run_sync)
        self._database: Enlisting | None = None
        self._name = ""

    def bind(self, transport: Transport) -> None:
        """Append to this transport's tables from now on."""
        self._database = transport if isinstance(transport, Enlisting) else None
        self._name = transport.traits.name

    def join(self, given: Any, *, blocking: bool) -> Joined:
        """Find the transaction that `within=` names; nothing is done in it yet.

        Raises:
            ConfigError: when there is none, or it is to be awaited by a caller that blocks.
        """
        if self._database is None:
            raise ConfigError(
                f"{self._name}:// cannot publish within a {type(given).__qualname__}: its events are in no database; "
                f"give the bus an outbox= in yours"
            )
        tx = transaction_of(given)
        if blocking and tx.asynchronous:
            raise ConfigError(
                f"a sync publish was given a {type(tx.given).__qualname__}, which belongs to an event loop: use "
                f"`await bus.publish(..., within=...)`"
            )
        own = given.pending(self.followers) if isinstance(given, Transaction) else None
        return Joined(given, tx, own or self.followers.pending(tx))

    async def append(self, joined: Joined, items: Sequence[Outgoing], after: Sequence[After]) -> Sequence[Append]:
        """Append, and leave to the commit what follows from it."""
        driver, connection = await joined.enter_async()
        script = self._script(driver, connection, items)
        if driver.asynchronous:
            results = await perform_async(driver, connection, script)
        else:
            results = perform(driver, connection, script)
        if joined.pending is not None:
            joined.pending.follow(connection, items, after)
        return results

    def append_sync(self, joined: Joined, items: Sequence[Outgoing], after: Sequence[After]) -> Sequence[Append]:
        """As `append`, on the caller's thread."""
        driver, connection = joined.enter()
        results = perform(driver, connection, self._script(driver, connection, items))
        if joined.pending is not None:
            joined.pending.follow(connection, items, after)
        return results

    def append_alone_sync(self, given: Any, item: Outgoing) -> Sequence[Append]:
        """`join` and `append_sync`, of one event without handlers; the short way where a raw connection is given."""
        driver = driver_of(given)
        if driver is None or driver.asynchronous or id(given) in self.followers.joined:
            return self.append_sync(self.join(given, blocking=True), (item,), ())
        driver.refuse_autocommit(given)
        return perform(driver, given, self._script(driver, given, (item,)))

    def _script(self, driver: Driver, connection: object, items: Sequence[Outgoing]) -> Script[Sequence[Append]]:
        database = self._database
        if database is None or database.dialect != driver.dialect:
            raise ConfigError(
                f"{self._name}:// cannot publish within a {type(connection).__module__}."
                f"{type(connection).__qualname__}: its tables are not in that database"
            )
        return database.append_within(items)

    def _surviving(self, ids: Sequence[bytes]) -> Script[Set[bytes]]:
        assert self._database is not None  # noqa: S101 - these were appended to it
        return self._database.surviving(ids)

    def _committed(self, items: Sequence[Outgoing]) -> None:
        if self._database is not None:
            self._database.committed(items)
