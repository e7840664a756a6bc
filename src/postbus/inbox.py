"""Transactional subscribers: their effects, what they publish and the done mark commit in one database transaction."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from .delivery import Delivery
from .dispatch import AlreadyDone
from .errors import LeaseLost, TransportError
from .transaction import After, Followers, Pending
from .transport import Duplicate, Settled, Transacting, Unknown

__all__ = ["Inbox"]

# A transaction that cannot begin for this long is an error, which the retry policy judges.
_PATIENCE = 30.0
_WAIT = (0.0005, 0.02)


class Inbox:
    """Transactions of the transport's own database; see `Transactions` in dispatch.

    Entering waits until nobody else writes, without blocking the event loop.
    """

    def __init__(self, database: Transacting, followers: Followers) -> None:
        self._database = database
        self._followers = followers

    @contextmanager
    def inside(self, delivery: Delivery) -> Iterator[Any]:
        """For a subscriber in a thread."""
        connection = self._database.connect()
        after: Sequence[After] = ()
        committed = False
        try:
            for wait in self._waits(connection):
                time.sleep(wait)
            repeated = self._mark(connection, delivery)
            if not repeated:
                with self._joined(connection) as pending:
                    yield connection
                    after = pending.surviving()
            committed = True
        finally:
            self._database.end(connection, commit=committed)
        if repeated:
            raise AlreadyDone
        self._followers.run_sync(after)

    @asynccontextmanager
    async def inside_async(self, delivery: Delivery) -> AsyncIterator[Any]:
        """For a subscriber in the event loop."""
        connection = self._database.connect()
        after: Sequence[After] = ()
        committed = False
        try:
            for wait in self._waits(connection):
                await asyncio.sleep(wait)
            repeated = self._mark(connection, delivery)
            if not repeated:
                with self._joined(connection) as pending:
                    yield connection
                    after = pending.surviving()
            committed = True
        finally:
            self._database.end(connection, commit=committed)
        if repeated:
            raise AlreadyDone
        await self._followers.run(after)

    @contextmanager
    def _joined(self, connection: Any) -> Iterator[Pending]:
        """Publishes on this connection are ours: their after-commit handlers wait for our commit."""
        pending = self._followers.joined[id(connection)] = Pending(connection, self._followers)
        try:
            yield pending
        finally:
            del self._followers.joined[id(connection)]

    def _waits(self, connection: Any) -> Iterator[float]:
        """How long to wait before each further try to begin."""
        until = time.monotonic() + _PATIENCE
        wait = _WAIT[0]
        while not self._database.try_begin(connection):
            if time.monotonic() > until:
                raise TransportError(
                    f"no transaction could begin within {_PATIENCE:g} s: does one stay open elsewhere?"
                )
            yield wait * random.uniform(0.5, 1.5)
            wait = min(2 * wait, _WAIT[1])

    def _mark(self, connection: Any, delivery: Delivery) -> bool:
        """Settle in the transaction; whether it had been done before."""
        match self._database.done_within(connection, delivery):
            case Settled():
                return False
            case Duplicate():
                return True
            case LeaseLost() as lost:
                raise lost
            case Unknown(error):
                raise error
