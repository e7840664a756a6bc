"""A transaction on a raw driver connection, which has no commit hook: begins, commits, and knows what follows."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from .envelope import Envelope
from .errors import ConfigError

__all__ = ["After", "Followers", "Pending", "Transaction", "connection_of"]

After = tuple[object, Envelope]


class Followers:
    """What the bus does around the commit of a transaction: told once, by the bus.

    Attributes:
        joined: what waits for the commits of transactional subscribers, by the id of their connections.
    """

    __slots__ = ("joined", "run", "run_sync", "surviving")

    def __init__(
        self,
        surviving: Callable[[Any, Sequence[bytes]], set[bytes]],
        run: Callable[[Sequence[After]], Awaitable[None]],
        run_sync: Callable[[Sequence[After]], None],
    ) -> None:
        self.surviving = surviving
        self.run = run
        self.run_sync = run_sync
        self.joined: dict[int, Pending] = {}


class Pending:
    """The events published in one transaction whose after-commit handlers wait for its commit."""

    __slots__ = ("_after", "_connection", "_followers")

    def __init__(self, connection: Any, followers: Followers) -> None:
        self._connection = connection
        self._followers = followers
        self._after: list[After] = []

    def follow(self, event: object, envelope: Envelope) -> None:
        """Remember one."""
        self._after.append((event, envelope))

    def surviving(self) -> Sequence[After]:
        """Those that no savepoint has taken back; asked just before the commit."""
        if not self._after:
            return ()
        kept = self._followers.surviving(self._connection, [envelope.id_bytes for _, envelope in self._after])
        return [(event, envelope) for event, envelope in self._after if envelope.id_bytes in kept]


class Transaction:
    """One transaction: `within=tx` publishes in it, and its after-commit handlers run when it has committed.

    Made by `bus.transaction(connection)`; used with `with` or `async with`.  Attributes it does not have are the
    connection's, so `tx.execute(...)` works.

    Attributes:
        connection: the raw connection.
        pending: what waits for its commit.
    """

    def __init__(self, connection: Any, followers: Followers) -> None:
        if not isinstance(connection, sqlite3.Connection):
            raise ConfigError(
                f"bus.transaction() takes a raw sqlite3 connection, and was given a {type(connection).__qualname__}"
            )
        self.connection = connection
        self._followers = followers
        self.pending = Pending(connection, followers)
        self._open = False

    def refuse_ended(self) -> None:
        """Raise when nobody will commit what is written to it.

        Raises:
            ConfigError: before its block was entered, and after it was left.
        """
        if not self._open:
            raise ConfigError("this transaction is not open: publish inside its `with` block")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)

    def _begin(self) -> None:
        if self.connection.in_transaction:
            raise ConfigError("the connection is in a transaction already: pass it as within=, or commit it first")
        self.connection.execute("BEGIN IMMEDIATE")
        self._open = True

    def _end(self, *, failed: bool) -> Sequence[After]:
        """Commit or roll back; return the events whose after-commit handlers are to run."""
        self._open = False
        if failed:
            self.connection.rollback()
            return ()
        after = self.pending.surviving()
        try:
            self.connection.commit()
        except BaseException:
            self.connection.rollback()
            raise
        return after

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if after := self._end(failed=kind is not None):
            self._followers.run_sync(after)

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if after := self._end(failed=kind is not None):
            await self._followers.run(after)


def connection_of(within: object) -> Any:
    """The connection behind what was given as `within=`."""
    return within.connection if isinstance(within, Transaction) else within
