"""Workers of a bus: which subscribers they run, what runs each, and running until nothing is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from typing import Any

from .catalog import Catalog
from .clock import Clock, Span, SystemClock, seconds
from .context import Publishes
from .dice import dice
from .dispatch import Dispatch
from .enlisting import Transacting
from .errors import ConfigError
from .finding import Examinable
from .given import Given
from .hold import OUTBOX
from .inbox import Inbox
from .inspection import inspectable
from .lifecycle import Lifecycle
from .middleware import Middleware
from .observe import Counters, Observer, log
from .relay import Relay, RelaySettings
from .slots import Isolate
from .subscription import Subscriber
from .tally import Tally
from .threads import Threads
from .transaction import Followers
from .transport import SubscriptionStats, Transport
from .wishes import heed
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
        given: where their transactions come from, if not from the transport's own database.
        tally: where workers add up what they do.
        require_subscription: an event that no subscription takes is refused.
    """

    bus: Publishes
    life: Lifecycle
    subscribers: Callable[[], Sequence[Subscriber]]
    catalog: Catalog
    counters: Counters
    clock: Clock
    middleware: Sequence[Middleware]
    settings: WorkerSettings
    unknown_after: float
    followers: Followers
    given: Given | None
    tally: Tally
    require_subscription: bool

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
            tally=self.tally,
            declare=self._declare,
            observers=observers,
            isolate=isolate,
        )

    @property
    def relays(self) -> bool:
        """Whether there is an outbox to relay."""
        return self.life.entrance is not self.life

    def relay(self, changes: Mapping[str, Any]) -> Relay:
        """Return a relay, not yet started.

        Raises:
            ConfigError: when there is no outbox.
        """
        if not self.relays:
            raise ConfigError(f"{self.life.transport.traits.name}:// has no outbox to relay: give the bus an outbox=")
        base = RelaySettings(lease=self.settings.lease, grace=self.settings.grace, version=self.settings.version)
        return Relay(
            self.life.entrance.transport,
            self._target,
            settings=replace(base, **{name: value for name, value in changes.items() if value is not None}),
            counters=self.counters,
            require_subscription=self.require_subscription,
        )

    async def _target(self) -> Transport:
        """What the relay carries to; declared to anew, for an outage may have emptied it."""
        self.life.changed()
        return await self.life.ready()

    @asynccontextmanager
    async def beside(self, worker: Worker, *, relay: bool, heeds: bool) -> AsyncIterator[None]:
        """Heed what is asked of the worker; relay if there is an outbox: where the relay fails, so does the worker."""
        heeding = asyncio.create_task(heed(worker, self.life.ready) if heeds else asyncio.sleep(0))
        try:
            async with self._relaying(worker, relay=relay):
                yield
        finally:
            heeding.cancel()
            await asyncio.gather(heeding, return_exceptions=True)

    @asynccontextmanager
    async def _relaying(self, worker: Worker, *, relay: bool) -> AsyncIterator[None]:
        if not (relay and self.relays):
            yield
            return
        made = self.relay({"grace": worker.settings.grace, "name": worker.settings.name})
        await made.start()
        watching = asyncio.create_task(made.ended())
        watching.add_done_callback(lambda task: _pass_on(task, worker))
        try:
            yield
        finally:
            await made.stop()
            await asyncio.gather(watching, return_exceptions=True)

    async def _declare(self) -> None:
        if self.life.declares:
            await self.life.declare()

    def _refuse_misplaced(self, subscriber: Subscriber, *, isolated: bool) -> None:
        """Draining, in tests and scripts, runs in this process what a worker would isolate."""
        if subscriber.isolation == "process" and not isolated:
            raise ConfigError(
                f"subscriber {subscriber.name!r} has isolation='process', which needs `postbus worker module:bus`"
            )
        if subscriber.transactional and self.given is not None:
            self.given.refuse(subscriber)
        elif subscriber.transactional and not isinstance(self.life.transport, Transacting):
            raise ConfigError(
                f"subscriber {subscriber.name!r} is transactional, and {self.life.transport.traits.name}:// is in no "
                f"database: give the bus transactions=, a session factory or pool of yours"
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
        own = Inbox(transport, self.followers) if isinstance(transport, Transacting) else None
        transactions = self.given or own
        return [
            Dispatch(
                subscriber,
                catalog=self.catalog,
                bus=self.bus,
                middleware=self.middleware,
                clock=self.clock,
                luck=dice.random,
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

    async def warn_of_the_server(self) -> None:
        """What may lose events is said once, at the start; `postbus doctor` says the rest."""
        transport = self.life.transport
        if not isinstance(transport, Examinable):
            return
        weak = [one for one in await transport.examine() if one.level in ("warning", "error")]
        if weak:
            texts = "; ".join(f"{one.what}: {one.text}" for one in weak)
            log.warning("%s:// may lose or delay events: %s (see `postbus doctor`)", transport.traits.name, texts)

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
                before = self.counters.as_dict()  # what moves on while we look is to be seen in one place at least
                left = await self._in_outbox()
                left += [s for s in await store.stats(names) if self._deliverable(s, until - time.monotonic())]
                if not left and worker.idle and before == self.counters.as_dict():
                    return
            if time.monotonic() >= until:
                raise TimeoutError(f"not drained: {_shown([*await store.stats(names), *await self._in_outbox()])}")
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    async def _in_outbox(self) -> list[SubscriptionStats]:
        """The outbox, if something waits there for a relay."""
        if not self.relays:
            return []
        stats = await inspectable(self.life.entrance.transport).stats([OUTBOX])
        return [s for s in stats if not s.paused and (s.backlog or s.scheduled)]

    def _deliverable(self, stats: SubscriptionStats, patience: float) -> bool:
        if stats.paused:
            return False
        if stats.backlog > stats.waiting or stats.in_flight:
            return True
        # What waits behind its key goes when the first of it does: that one is due later, then.
        # A clock that does not go by itself brings nothing due, however long one waits.
        horizon = max(0.0, patience) if isinstance(self.clock, SystemClock) else 0.0
        return stats.next_due is not None and stats.next_due <= horizon


def _pass_on(ended: asyncio.Task[None], worker: Worker) -> None:
    error = None if ended.cancelled() else ended.exception()
    if error is not None:
        worker.fail(error)


def worker_settings(*, concurrency: int, lease: Span, grace: Span, **more: Any) -> WorkerSettings:
    """Check how workers are to run.

    Raises:
        ConfigError: naming the value and what was expected.
    """
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
        raise ConfigError(f"concurrency={concurrency!r}: expected a whole number from 1")
    return WorkerSettings(
        concurrency=concurrency,
        lease=seconds(lease, "lease", least=0.05),
        grace=seconds(grace, "grace"),
        **{"version": _ours(), **more},
    )


@cache
def _ours() -> str:
    """What a worker says of its version: two releases side by side are seen at a glance."""
    return version("postbus")


def _shown(stats: Sequence[SubscriptionStats]) -> str:
    return "; ".join(
        f"{s.name}: {s.backlog - s.waiting} ready, {s.waiting} behind their key, {s.in_flight} running, "
        f"{s.scheduled} scheduled, {s.retrying} retrying"
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
