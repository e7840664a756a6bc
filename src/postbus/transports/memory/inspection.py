"""How a memory transport is inspected and mended: each look and each mend is one step on its store."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from uuid import UUID

from ...delivery import DeadLetter
from ...envelope import Envelope
from ...retrying import Retrying
from ...transport import DeadQuery, EventQuery, StoredEvent, SubscriptionInfo, SubscriptionStats, WorkerInfo
from .desk import (
    abandon,
    amend_letter,
    dead_page,
    discard_letters,
    event_page,
    hasten,
    replay_letters,
    retries_of,
    seek_events,
    stats_of,
)  # fmt: skip
from .recording import Memoirs
from .store import Store

__all__ = ["Inspection"]


class Inspection(Memoirs, ABC):
    """The part of the transport that people use; see `Inspectable`."""

    @abstractmethod
    def _step(self) -> AbstractContextManager[Store]:
        """One step on the store, which nobody else sees meanwhile."""

    @abstractmethod
    def _living(self) -> list[WorkerInfo]:
        """The workers that beat."""

    async def ping(self) -> float:
        """See `Inspectable.ping`."""
        began = time.perf_counter()
        with self._step():
            return time.perf_counter() - began

    async def subscriptions(self) -> Sequence[SubscriptionInfo]:
        """See `Inspectable.subscriptions`."""
        with self._step() as store:
            return [store.queues[name].info for name in sorted(store.queues)]

    async def stats(self, subscriptions: Collection[str] | None = None) -> Sequence[SubscriptionStats]:
        """See `Inspectable.stats`."""
        with self._step() as store:
            names = sorted(store.queues if subscriptions is None else store.queues.keys() & set(subscriptions))
            running = Counter(name for worker in self._living() for name in worker.subscriptions)
            return [stats_of(store, store.queues[name], running[name]) for name in names]

    async def workers(self) -> Sequence[WorkerInfo]:
        """See `Inspectable.workers`."""
        with self._step():
            return self._living()

    async def events(self, query: EventQuery, *, limit: int = 100, after: str | None = None) -> Sequence[StoredEvent]:
        """See `Inspectable.events`."""
        with self._step() as store:
            return event_page(store, query, limit, after)

    async def dead(
        self, subscription: str | None, query: DeadQuery, *, limit: int = 100, after: UUID | None = None
    ) -> Sequence[DeadLetter]:
        """See `Inspectable.dead`."""
        with self._step() as store:
            queue = None if subscription is None else store.queue(subscription)
            return dead_page(store, queue, query, limit, after)

    async def replay(self, subscription: str, ids: Sequence[UUID]) -> int:
        """See `Inspectable.replay`."""
        with self._step() as store:
            return replay_letters(store, store.queue(subscription), ids)

    async def discard(self, subscription: str, ids: Sequence[UUID]) -> int:
        """See `Inspectable.discard`."""
        with self._step() as store:
            return discard_letters(store, store.queue(subscription), ids)

    async def amend(self, subscription: str, letter: UUID, envelope: Envelope) -> bool:
        """See `Amending.amend`."""
        with self._step() as store:
            return amend_letter(store, store.queue(subscription), letter, envelope)

    async def retrying(self, subscription: str, *, limit: int = 100, after: str | None = None) -> Sequence[Retrying]:
        """See `Hastening.retrying`."""
        with self._step() as store:
            return retries_of(store, store.queue(subscription), limit, after)

    async def hasten(self, subscription: str, places: Sequence[str]) -> int:
        """See `Hastening.hasten`."""
        with self._step() as store:
            return hasten(store, store.queue(subscription), places)

    async def abandon(self, subscription: str, places: Sequence[str]) -> int:
        """See `Hastening.abandon`."""
        with self._step() as store:
            return abandon(store, store.queue(subscription), places)

    async def pause(self, subscription: str) -> None:
        """See `Inspectable.pause`."""
        with self._step() as store:
            store.queue(subscription).paused = True

    async def resume(self, subscription: str) -> None:
        """See `Inspectable.resume`."""
        with self._step() as store:
            queue = store.queue(subscription)
            queue.paused = False
            queue.ring()

    async def rename(self, subscription: str, to: str) -> None:
        """See `Inspectable.rename`."""
        with self._step() as store:
            store.rename(subscription, to)

    async def retire(self, subscription: str) -> int:
        """See `Inspectable.retire`."""
        with self._step() as store:
            return store.retire(subscription)

    async def seek(self, subscription: str, to: datetime) -> int:
        """See `Inspectable.seek`."""
        with self._step() as store:
            return seek_events(store, store.queue(subscription), to)
