"""What CLI and dashboard use.  Reads go to the reader's thread, changes to the writer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from ...delivery import DeadLetter
from ...event import valid_name
from ...transport import DeadQuery, EventQuery, StoredEvent, SubscriptionInfo, SubscriptionStats, WorkerInfo
from .house import House
from .operation import Operation
from .reading import Reading
from .store import Transaction

__all__ = ["Inspection"]

T = TypeVar("T")


class Inspection:
    """The inspectable half of the transport; the other half says what house is open."""

    def _open_house(self) -> House:
        raise NotImplementedError

    async def _read(self, look: Callable[[Reading], T]) -> T:
        house = self._open_house()
        return await asyncio.get_running_loop().run_in_executor(house.reader, house.read, look)

    async def _change(self, act: Callable[[Transaction], T]) -> T:
        house = self._open_house()
        return await house.writer.run(Operation(act, house.writer.deadline(house.patience)))

    # -- seen

    async def ping(self) -> float:
        """Seconds for one read."""
        began = time.perf_counter()
        await self._read(Reading.ping)
        return time.perf_counter() - began

    async def subscriptions(self) -> Sequence[SubscriptionInfo]:
        """Every durable subscription, by name."""
        return await self._read(Reading.subscriptions)

    async def stats(self, subscriptions: Collection[str] | None = None) -> Sequence[SubscriptionStats]:
        """How these (or all) subscriptions stand, by name."""
        house = self._open_house()
        return await self._read(lambda reading: reading.stats(subscriptions, house.present()))

    async def workers(self) -> Sequence[WorkerInfo]:
        """The workers that have beaten within their lease."""
        house = self._open_house()
        return await self._read(lambda _: house.present().workers)

    async def events(self, query: EventQuery, *, limit: int = 100, after: str | None = None) -> Sequence[StoredEvent]:
        """Stored events, newest first."""
        house = self._open_house()
        return await self._read(lambda reading: reading.events(query, limit, after, house.present().owners))

    async def dead(
        self, subscription: str | None, query: DeadQuery, *, limit: int = 100, after: UUID | None = None
    ) -> Sequence[DeadLetter]:
        """Dead letters, oldest burial first."""
        return await self._read(lambda reading: reading.dead(subscription, query, limit, after))

    # -- mended

    async def replay(self, subscription: str, ids: Sequence[UUID]) -> int:
        """Make these dead letters ready again."""
        house = self._open_house()
        return await self._change(lambda transaction: house.burial.replay(transaction, subscription, ids))

    async def discard(self, subscription: str, ids: Sequence[UUID]) -> int:
        """Delete these dead letters."""
        house = self._open_house()
        return await self._change(lambda transaction: house.burial.discard(transaction, subscription, ids))

    async def pause(self, subscription: str) -> None:
        """Refuse claims."""
        house = self._open_house()
        await self._change(lambda transaction: house.declaring.pause(transaction, subscription, paused=True))

    async def resume(self, subscription: str) -> None:
        """Allow claims."""
        house = self._open_house()
        await self._change(lambda transaction: house.declaring.pause(transaction, subscription, paused=False))

    async def rename(self, subscription: str, to: str) -> None:
        """Give the subscription a new name."""
        house = self._open_house()
        valid_name(to, "subscription")
        await self._change(lambda transaction: house.declaring.rename(transaction, subscription, to))

    async def retire(self, subscription: str) -> int:
        """Delete the subscription with all it holds, in small bites."""
        house = self._open_house()
        id_, total = await self._change(lambda transaction: house.declaring.retire(transaction, subscription))
        while await self._change(lambda transaction: house.declaring.bite(transaction, id_)):
            pass
        return total

    async def seek(self, subscription: str, to: datetime) -> int:
        """Deliver stored events again, to this subscription only."""
        house = self._open_house()
        since = int(to.timestamp() * 1e6)

        def act(transaction: Transaction) -> int:
            place = transaction.routing.place(subscription)
            house.declaring.filling.begin(transaction, place.id, since)
            return place.id

        id_ = await self._change(act)
        total, more = 0, True
        while more:
            count, more = await self._change(lambda transaction: house.declaring.filling.bite(transaction, id_))
            total += count
        return total
