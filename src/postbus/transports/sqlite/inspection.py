"""What CLI, dashboard and relays use.  Reads go to the reader's thread, changes to the writer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence, Set
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from ...delivery import DeadLetter
from ...envelope import Envelope
from ...event import valid_name
from ...recording import Record
from ...retrying import Retrying
from ...spool import Waiting
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

    # -- as an outbox

    async def waiting(
        self, subscription: str, *, limit: int, skip: Collection[int] = (), without: Collection[tuple[str, str]] = ()
    ) -> Sequence[Waiting]:
        """See `Spool.waiting`."""
        house = self._open_house()
        return await self._read(
            lambda reading: house.spooling.waiting(reading.connection, subscription, limit, skip, without)
        )

    async def forwarded(self, subscription: str, numbers: Sequence[int]) -> None:
        """See `Spool.forwarded`."""
        spooling = self._open_house().spooling
        await self._change(lambda transaction: spooling.forwarded(transaction, subscription, numbers))

    async def undeliverable(self, subscription: str, refused: Sequence[tuple[int, str]]) -> None:
        """See `Spool.undeliverable`."""
        spooling = self._open_house().spooling
        await self._change(lambda transaction: spooling.undeliverable(transaction, subscription, refused))

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

    # -- remembered

    async def record(self, records: Sequence[Record]) -> None:
        """See `Recording.record`."""
        await self._open_house().memoirs.record(records)

    async def records(
        self, kind: str, *, subject: str | None = None, since: str = "", limit: int = 100, after: str | None = None
    ) -> Sequence[Record]:
        """See `Recording.records`."""
        return await self._open_house().memoirs.records(kind, subject=subject, since=since, limit=limit, after=after)

    # -- mended

    async def replay(self, subscription: str, ids: Sequence[UUID]) -> int:
        """Make these dead letters ready again."""
        house = self._open_house()
        return await self._change(lambda transaction: house.burial.replay(transaction, subscription, ids))

    async def done(self, subscription: str, ids: Sequence[UUID]) -> Set[UUID]:
        """See `Remembering.done`."""
        house = self._open_house()
        return await self._change(lambda transaction: house.effects.done(transaction, subscription, ids))

    async def forget(self, subscription: str, ids: Sequence[UUID]) -> None:
        """See `Remembering.forget`."""
        house = self._open_house()
        await self._change(lambda transaction: house.effects.forget(transaction, subscription, ids))

    async def discard(self, subscription: str, ids: Sequence[UUID]) -> int:
        """Delete these dead letters."""
        house = self._open_house()
        return await self._change(lambda transaction: house.burial.discard(transaction, subscription, ids))

    async def amend(self, subscription: str, letter: UUID, envelope: Envelope) -> bool:
        """See `Amending.amend`."""
        house = self._open_house()
        return await self._change(lambda transaction: house.burial.amend(transaction, subscription, letter, envelope))

    async def retrying(self, subscription: str, *, limit: int = 100, after: str | None = None) -> Sequence[Retrying]:
        """See `Hastening.retrying`."""
        hastening = self._open_house().hastening
        return await self._read(lambda reading: hastening.retrying(reading.connection, subscription, limit, after))

    async def hasten(self, subscription: str, places: Sequence[str]) -> int:
        """See `Hastening.hasten`."""
        hastening = self._open_house().hastening
        return await self._change(lambda transaction: hastening.hasten(transaction, subscription, places))

    async def abandon(self, subscription: str, places: Sequence[str]) -> int:
        """See `Hastening.abandon`."""
        hastening = self._open_house().hastening
        return await self._change(lambda transaction: hastening.abandon(transaction, subscription, places))

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
