"""Workers of a bus: which subscribers they run, what runs each, and running until nothing is left."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .catalog import Catalog
from .clock import Clock, Span, SystemClock, seconds
from .context import Publishes
from .dispatch import Dispatch
from .errors import ConfigError
from .inbox import Inbox
from .inspection import inspectable
from .lifecycle import Lifecycle
from .middleware import AroundDelivery
from .observe import Counters, Observer, log
from .slots import Isolate
from .subscription import Subscriber
from .threads import Threads
from .transaction import Followers
from .transport import SubscriptionStats, Transacting
from .worker import Worker, WorkerSettings

__all__ = ["Background", "worker_settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """Everything that a worker of this bus is made of.

    Attributes:
        bus: what contexts publish with.
        life: the transport.
        subscribers: those the program declares.
        unknown_after: seconds for which an unknown event is offered to others.
        followers: what happens around the commits of transactional subscribers.
    """

    bus: Publishes
    life: Lifecycle
    subscribers: Callable[[], Sequence[Subscriber]]
    catalog: Catalog
    counters: Counters
    clock: Clock
    middleware: Sequence[AroundDelivery]
    settings: WorkerSettings
    unknown_after: float
    followers: Followers

    def worker(
        self,
        *,
        only: Iterable[str] | None,
        exclude: Iterable[str],
        isolate: Isolate | None,
        observers: Sequence[Observer],
        changes: Mapping[str, Any],
        draining: bool = False,
    ) -> Worker:
        """Return a worker, not yet started.

        Raises:
            ConfigError: when a name or setting is unknown, or a subscriber cannot run here.
        """
        chosen = self.chosen(only, exclude)
        for subscriber in chosen:
            self._refuse_misplaced(subscriber, isolated=isolate is not None or draining)
        threads = Threads()
        return Worker(
            self.life.transport,
            self.dispatches(chosen, threads),
            threads=threads,
            settings=_changed(self.settings, changes),
            counters=self.counters,
            declare=self._declare,
            observers=observers,
            isolate=isolate,
        )

    async def _declare(self) -> None:
        if self.life.declares:
            await self.life.declare()

    def _refuse_misplaced(self, subscriber: Subscriber, *, isolated: bool) -> None:
        """Draining, in tests and scripts, runs in this process what a worker would isolate."""
        if subscriber.isolation == "process" and not isolated:
            raise ConfigError(
                f"subscriber {subscriber.name!r} has isolation='process', which needs `postbus worker module:bus`"
            )
        if subscriber.transactional and not isinstance(self.life.transport, Transacting):
            raise ConfigError(
                f"subscriber {subscriber.name!r} is transactional, and {self.life.transport.traits.name}:// is in no "
                f"database: use sqlite:///..., or write down yourself which context.idempotency_key is done"
            )

    def chosen(self, only: Iterable[str] | None, exclude: Iterable[str]) -> list[Subscriber]:
        """The subscribers of these names.

        Raises:
            ConfigError: when there is none of a name.
        """
        subscribers = self.subscribers()
        names = {s.name for s in subscribers}
        wanted, unwanted = None if only is None else set(only), set(exclude)
        for name in sorted(((wanted or set()) | unwanted) - names):
            have = f"there are {', '.join(sorted(names))}" if names else "there are none"
            raise ConfigError(f"no subscriber is named {name!r}: {have}")
        return [s for s in subscribers if (wanted is None or s.name in wanted) and s.name not in unwanted]

    def dispatches(self, subscribers: Iterable[Subscriber], threads: Threads) -> list[Dispatch]:
        """What runs the deliveries of each; `def` subscribers run in these threads."""
        transport = self.life.transport
        transactions = Inbox(transport, self.followers) if isinstance(transport, Transacting) else None
        return [
            Dispatch(
                subscriber,
                catalog=self.catalog,
                bus=self.bus,
                middleware=self.middleware,
                clock=self.clock,
                luck=random.random,
                threads=threads,
                unknown_after=self.unknown_after,
                transactions=transactions,
            )
            for subscriber in subscribers
        ]

    async def warn_of_orphans(self, worker: Worker) -> None:
        """A durable subscription that no worker runs fills up in silence: say so once, at the start."""
        running = set(worker.info().subscriptions)
        for stats in await inspectable(self.life.transport).stats():
            if stats.name not in running and not stats.workers:
                log.warning(
                    "subscription %r is durable and no worker runs it: %d events wait there; run its subscriber, or "
                    "`postbus subs retire %s`", stats.name, stats.backlog, stats.name,
                )  # fmt: skip

    async def drain(self, worker: Worker, until: float) -> None:
        """Wait until a running worker has nothing left that can be delivered by then, on the monotonic clock.

        Raises:
            TimeoutError: when something that could run is left, naming where it stands.
        """
        store = inspectable(self.life.transport)
        names = worker.info().subscriptions
        pause = 0.001
        while True:
            if worker.failure is not None:
                raise worker.failure
            if worker.idle:
                stats = await store.stats(names)
                left = [s for s in stats if self._deliverable(s, until - time.monotonic())]
                if not left and worker.idle:
                    return
            if time.monotonic() >= until:
                raise TimeoutError(f"not drained: {_shown(await store.stats(names))}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def _deliverable(self, stats: SubscriptionStats, patience: float) -> bool:
        if stats.paused:
            return False
        if stats.backlog or stats.in_flight:
            return True
        # A clock that does not go by itself brings nothing due, however long one waits.
        horizon = max(0.0, patience) if isinstance(self.clock, SystemClock) else 0.0
        return stats.next_due is not None and stats.next_due <= horizon


def worker_settings(*, concurrency: int, lease: Span, grace: Span, **more: Any) -> WorkerSettings:
    """Check how workers are to run.

    Raises:
        ConfigError: naming the value and what was expected.
    """
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
        raise ConfigError(f"concurrency={concurrency!r}: expected a whole number from 1")
    return WorkerSettings(
        concurrency=concurrency, lease=seconds(lease, "lease", least=0.05), grace=seconds(grace, "grace"), **more
    )


def _shown(stats: Sequence[SubscriptionStats]) -> str:
    return "; ".join(
        f"{s.name}: {s.backlog} ready, {s.in_flight} running, {s.scheduled} scheduled, {s.retrying} retrying"
        for s in stats
    )


def _changed(base: WorkerSettings, changes: Mapping[str, Any]) -> WorkerSettings:
    known = {name: getattr(base, name) for name in base.__slots__}
    for name, value in changes.items():
        if name not in known:
            raise ConfigError(f"a worker has no setting {name!r}: expected {', '.join(sorted(known))}")
        if value is not None:
            known[name] = value
    return worker_settings(**known)
