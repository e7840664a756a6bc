"""The memory transport itself: one lock around a store, and the waiting for work and for room."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal
from weakref import WeakSet

from ...address import Settings
from ...clock import AdvancingClock
from ...delivery import Delivery, Outcome
from ...errors import Closed, ForkError, TransportFull
from ...transport import (
    Append,
    Claimed,
    Conflict,
    Outgoing,
    Refused,
    Settle,
    SubscriptionSpec,
    Traits,
    WorkerInfo,
)
from .bells import Bell, Caller, Crowd, Doorbell
from .inspection import Inspection
from .store import DEDUP_WINDOW, Store

__all__ = ["MemoryRenewer", "MemoryTransport"]

# An append answers within `publish_timeout`: the rest is for the way back to whoever waits no longer than that.
_PATIENCE = 0.9
# For a worker that beats before it renews.
_LEASE = 30.0


class MemoryTransport(Inspection):
    """See `connect`.  Publishing is safe from any thread; so is everything else, under one short lock."""

    def __init__(self, settings: Settings, *, maxsize: int, objects: bool) -> None:
        super().__init__(settings.clock)
        self._traits = Traits(
            name="memory", durable="memory", shared=False, dedup_window=DEDUP_WINDOW, objects=objects, coalesce=False
        )
        self._settings = settings
        self._maxsize = maxsize
        self._state: Literal["new", "open", "closed", "forked"] = "new"
        # Re-entrant, because a signal handler or a finaliser may publish while this very thread holds it.
        self._lock = threading.RLock()
        self._acquire = self._lock.acquire
        self._release = self._lock.release
        self._store = Store(settings)
        self._doorbell = Doorbell()
        self._crowd = Crowd()
        self._workers: dict[str, tuple[float, WorkerInfo]] = {}
        self._forget_clock: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<memory transport, {self._state}, {self._store.unfinished} unfinished>"

    @property
    def traits(self) -> Traits:
        """See `Transport.traits`."""
        return self._traits

    async def open(self) -> None:
        """Begin, or go on with what is stored."""
        if self._state == "forked":
            self._refuse()
        self._state = "open"
        _OPENED.add(self)
        if self._forget_clock is None and isinstance(self._settings.clock, AdvancingClock):
            self._forget_clock = self._settings.clock.on_advance(self._ring_all)

    async def close(self) -> None:
        """Refuse further calls; what is stored stays for as long as this object lives."""
        if self._state == "forked":
            return
        if self._forget_clock is not None:
            self._forget_clock()
            self._forget_clock = None
        with self._lock:
            self._state = "closed"
            self._doorbell.ring_out()
            self._crowd.offer(self._maxsize)

    def disown(self) -> None:
        """In a forked child: refuse every use.  Takes no lock, which may be held for ever here."""
        self._state = "forked"

    def _refuse(self) -> None:
        if self._state == "forked":
            raise ForkError(
                "a memory transport that was opened before a fork is its parent's: open a bus in each process, "
                "or use a transport that processes can share, such as sqlite:///shop.db"
            )
        raise Closed(f"the memory transport is not open, but {self._state}: open the bus first")

    # -- the road

    async def declare(self, subscriptions: Sequence[SubscriptionSpec], *, newest: bool = False) -> Sequence[Conflict]:
        """See `Transport.declare`."""
        with self._step() as store:
            conflicts = [store.declare(spec, newest=newest) for spec in subscriptions]
        return [conflict for conflict in conflicts if conflict is not None]

    async def append(self, items: Sequence[Outgoing]) -> Sequence[Append]:
        """See `Transport.append`."""
        results = self._try_append(items)
        if results is not None:
            return results
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.publish_timeout * _PATIENCE
        while (left := until - loop.time()) > 0:
            bell = Bell()
            caller = Caller(bell.ring, need=len(items))
            results = self._try_append(items, caller)
            if results is not None:
                return results
            try:
                await bell.wait(left)
            except asyncio.CancelledError:
                self._leave_crowd(caller)
                raise
        return self._last_try(items, caller)

    def append_now(self, items: Sequence[Outgoing], timeout: float) -> Sequence[Append]:
        """See `Immediate.append_now`."""
        if self._state != "open":
            self._refuse()
        store = self._store
        self._acquire()  # `with` would cost as much as a fifth of the append
        try:
            if store.unfinished < self._maxsize:
                results = store.append(items)
                if store.bells:
                    self._ring()
                return results
        finally:
            self._release()
        return self._append_in_time(items, timeout)

    def append_one(self, item: Outgoing) -> Append | None:
        """See `Direct.append_one`."""
        if self._state != "open":
            self._refuse()
        store = self._store
        self._acquire()
        try:
            if store.unfinished < self._maxsize:
                result = store.append_one(item)
                if store.bells:
                    self._ring()
                return result
        finally:
            self._release()
        return None

    def _append_in_time(self, items: Sequence[Outgoing], timeout: float) -> Sequence[Append]:
        until = time.monotonic() + timeout
        caller = None
        while (left := until - time.monotonic()) > 0:
            bell = threading.Event()
            caller = Caller(bell.set, need=len(items))
            results = self._try_append(items, caller)
            if results is not None:
                return results
            bell.wait(left)
        return self._last_try(items, caller)

    def _try_append(self, items: Sequence[Outgoing], caller: Caller | None = None) -> Sequence[Append] | None:
        """Append, or have `caller` woken when there is room."""
        with self._step() as store:
            if store.unfinished < self._maxsize:
                return store.append(items)
            if caller is not None:
                self._crowd.enter(caller)
            return None

    def _last_try(self, items: Sequence[Outgoing], caller: Caller | None) -> Sequence[Append]:
        results = self._try_append(items)
        if caller is not None:
            self._leave_crowd(caller)
        if results is not None:
            return results
        error = TransportFull(
            f"the memory transport holds {self._store.unfinished} unfinished deliveries, and its bound is "
            f"{self._maxsize}: run more workers, or raise the bound with memory://?maxsize="
        )
        return [Refused(error)] * len(items)

    async def wait(self, subscriptions: Collection[str], timeout: float) -> Set[str]:
        """See `Transport.wait`."""
        bell = Bell()
        caller = Caller(bell.ring, names=subscriptions)
        with self._step():
            heard = self._hear(subscriptions)
            if heard or timeout <= 0:
                return heard
            self._doorbell.enter(caller)
        try:
            await bell.wait(timeout)
        finally:
            with self._lock:
                self._doorbell.leave(caller)
        with self._step():
            return caller.heard | self._hear(subscriptions)

    async def claim(self, subscription: str, *, owner: str, limit: int, lease: float, alone: bool = False) -> Claimed:
        """See `Transport.claim`."""
        if self._state != "open":
            self._refuse()
        with self._lock:
            return self._store.claim(subscription, owner, limit, lease, alone=alone)

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> Sequence[Settle]:
        """See `Transport.settle`."""
        if self._state != "open":
            self._refuse()
        with self._lock:
            results = self._store.settle(settlements)
            self._follow()
            return results

    def renewer(self) -> MemoryRenewer:
        """See `Transport.renewer`."""
        return MemoryRenewer(self)

    # -- one step at a time

    @contextmanager
    def _step(self) -> Iterator[Store]:
        """One step, of which only those that are taken for every event have a shorter form."""
        if self._state != "open":
            self._refuse()
        with self._lock:
            yield self._store
            self._follow()

    def _follow(self) -> None:
        """After a step that may have made work available, or room."""
        if self._store.bells:
            self._ring()
        if self._crowd:
            self._crowd.offer(self._maxsize - self._store.unfinished)

    def _ring(self) -> None:
        bells = self._store.bells
        self._doorbell.ring({queue.name for queue in bells})
        bells.clear()

    def _ring_all(self) -> None:
        """Time has moved: what was scheduled may be due, and what was leased may be free."""
        with self._lock:
            for queue in self._store.queues.values():
                queue.ring()
            self._ring()

    def _hear(self, subscriptions: Collection[str]) -> Set[str]:
        """The names that have rung; they are quiet from now on."""
        queues = self._store.queues
        heard = {name for name in subscriptions if name in queues and queues[name].rung}
        for name in heard:
            queues[name].rung = False
        return heard

    def _leave_crowd(self, caller: Caller) -> None:
        with self._lock:
            self._crowd.leave(caller, self._maxsize - self._store.unfinished)

    # -- from a renewer's thread

    def renew(self, deliveries: Sequence[Delivery], lease: float) -> Collection[Delivery]:
        """See `Renewer.renew`."""
        with self._step() as store:
            return store.renew(deliveries, lease)

    def beat(self, worker: WorkerInfo, lease: float) -> None:
        """Note that this worker lives, for `lease` seconds unless it beats again."""
        clock = self._settings.clock
        with self._step():
            self._living()  # forgets whoever vanished without a word
            if worker.state == "gone":
                self._workers.pop(worker.owner, None)
            else:
                seen = replace(worker, seen_at=datetime.fromtimestamp(clock.time(), UTC))
                self._workers[worker.owner] = clock.monotonic() + lease, seen

    def _living(self) -> list[WorkerInfo]:
        now = self._settings.clock.monotonic()
        for owner in [owner for owner, (until, _) in self._workers.items() if until <= now]:
            del self._workers[owner]
        return [worker for _, worker in self._workers.values()]


class MemoryRenewer:
    """See `Renewer`.  A beat holds for as long as the leases that were renewed with it."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._transport = transport
        self._lease = _LEASE

    def renew(self, deliveries: Sequence[Delivery], lease: float) -> Collection[Delivery]:
        """See `Renewer.renew`."""
        self._lease = lease
        return self._transport.renew(deliveries, lease)

    def beat(self, worker: WorkerInfo) -> None:
        """See `Renewer.beat`."""
        self._transport.beat(worker, self._lease)

    def close(self) -> None:
        """Nothing to let go of."""


_OPENED: WeakSet[MemoryTransport] = WeakSet()


def _after_fork() -> None:
    """What the parent had open is its own, and its lock may be held by a thread that the child does not have."""
    for transport in _OPENED:
        transport.disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
