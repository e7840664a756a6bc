"""Transactional subscribers: their effects, what they publish and the done mark commit in one database transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

from .delivery import Delivery
from .dice import dice
from .dispatch import AlreadyDone, NotBegun
from .enlisting import AsyncTransacting, Transacting
from .errors import LeaseLost, PostbusError, TransportError
from .failure import one_line
from .transaction import Followers, Pending
from .transport import Duplicate, Settle, Settled, Unknown

__all__ = ["Inbox"]

# Seconds for which a transaction may wait to begin, before its delivery is handed back.
_PATIENCE = 30.0
_WAIT = (0.0005, 0.02)
# SQLSTATE of a serialization failure and of a deadlock.
_CONFLICTS = ("40001", "40P01")
_WRAPPINGS = 5


class Inbox:
    """Transactions of the transport's own database; see `Transactions` in dispatch.

    Entering waits until nobody else writes, without blocking the event loop.
    """

    settles = True

    def __init__(self, database: Transacting, followers: Followers) -> None:
        self._database = database
        self._looped = database if isinstance(database, AsyncTransacting) else None
        self._followers = followers

    async def prepare(self, subscription: str) -> None:
        """Nothing: its tables are the transport's."""

    @contextmanager
    def inside(self, delivery: Delivery) -> Iterator[Any]:
        """For a subscriber in a thread."""
        connection = self._connected()
        pending = Pending(self._followers)
        committed = False
        try:
            for wait in self._waits(connection):
                time.sleep(wait)
            repeated = self._looked(connection, delivery)
            if not repeated:
                with self._joined(connection, pending):
                    yield connection
                    pending.weigh()
            committed = True
        finally:
            self._database.end(connection, commit=committed)
        if repeated:
            raise AlreadyDone
        pending.committed()

    def conflicted(self, error: BaseException) -> bool:
        """Whether SQL's own word for it is in the error, or in one that a library wrapped."""
        cause: BaseException | None = error
        for _ in range(_WRAPPINGS):  # an error may be its own cause
            if cause is None or getattr(cause, "sqlstate", None) in _CONFLICTS:
                break
            cause = cause.__cause__
        return getattr(cause, "sqlstate", None) in _CONFLICTS

    def inside_async(self, delivery: Delivery) -> AbstractAsyncContextManager[Any]:
        """For a subscriber in the event loop."""
        if self._looped is not None:
            return self._inside_loop(self._looped, delivery)
        return self._inside_brief(delivery)

    @asynccontextmanager
    async def _inside_loop(self, database: AsyncTransacting, delivery: Delivery) -> AsyncIterator[Any]:
        """On a connection for event loops."""
        try:
            connection, answer = await database.begin_async(delivery)
        except TransportError as error:
            raise _unbegun(error) from error
        pending = Pending(self._followers)
        committed = False
        try:
            repeated = _repeated(answer)
            if not repeated:
                with self._joined(connection, pending):
                    yield connection
                    await pending.weigh_async()
            committed = True
        finally:
            await database.end_async(connection, commit=committed)
        if repeated:
            raise AlreadyDone
        await pending.committed_async()

    @asynccontextmanager
    async def _inside_brief(self, delivery: Delivery) -> AsyncIterator[Any]:
        """On a connection whose calls block, for a moment."""
        connection = self._connected()
        pending = Pending(self._followers)
        committed = False
        try:
            for wait in self._waits(connection):
                await asyncio.sleep(wait)
            repeated = self._looked(connection, delivery)
            if not repeated:
                with self._joined(connection, pending):
                    yield connection
                    pending.weigh()
            committed = True
        finally:
            self._database.end(connection, commit=committed)
        if repeated:
            raise AlreadyDone
        await pending.committed_async()

    @contextmanager
    def _joined(self, connection: Any, pending: Pending) -> Iterator[None]:
        """Publishes on this connection are ours: their after-commit handlers wait for our commit."""
        self._followers.joined[id(connection)] = pending
        try:
            yield
        finally:
            del self._followers.joined[id(connection)]

    def _connected(self) -> Any:
        try:
            return self._database.connect()
        except TransportError as error:
            raise _unbegun(error) from error

    def _begun(self, connection: Any) -> bool:
        try:
            return self._database.try_begin(connection)
        except TransportError as error:
            raise _unbegun(error) from error

    def _looked(self, connection: Any, delivery: Delivery) -> bool:
        """Whether it had been done before, as its transaction begins."""
        try:
            return _repeated(self._database.done_within(connection, delivery))
        except TransportError as error:
            raise _unbegun(error) from error

    def _waits(self, connection: Any) -> Iterator[float]:
        """How long to wait before each further try to begin."""
        until = time.monotonic() + _PATIENCE
        wait = _WAIT[0]
        while not self._begun(connection):
            if time.monotonic() > until:
                raise NotBegun(f"no transaction could begin within {_PATIENCE:g} s: does one stay open elsewhere?")
            yield wait * dice.uniform(0.5, 1.5)
            wait = min(2 * wait, _WAIT[1])


def _unbegun(error: PostbusError) -> NotBegun:
    """What the transport cannot do before the subscriber runs is not the event's fault."""
    return NotBegun(f"no transaction can begin: {one_line(str(error))}")


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
            raise _unbegun(error) from error
