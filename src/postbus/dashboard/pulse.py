"""How everything stands, asked once for all who look, and how it stood in the last quarter of an hour.

It works while somebody looks.  A mounted application has no lifespan of its own, so the first request starts it, and a
minute without any ends it.  It looks as often as the most eager stream asks, and less often where looking, and drawing
what was seen, costs more than its share: the work of the bus goes first.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ..bus import Bus
from ..errors import Closed, PostbusError
from ..inspection import OutboxStats, Stats, inspectable
from ..transport import SubscriptionInfo, SubscriptionStats, WorkerInfo

__all__ = ["Gauge", "Pulse", "Snapshot"]

_IDLE = 60.0
# Seconds between two looks while nobody has a stream open, and between two that an action asked for.
_EVERY, _SOONEST = 1.0, 0.1
# Looking takes at most a tenth of one connection's time, and drawing a twelfth of one core's, however much there is.
_LOOKING, _DRAWING, _SLOWEST = 10.0, 12.0, 15.0
# A page that is opened finds figures no older than this, unless looking is dear.
_OLDEST = 5.0
_MEMORY = 900
_NOTHING = SubscriptionStats(name="")


@dataclass(frozen=True, slots=True)
class Gauge:
    """One subscription's figures at one moment."""

    at: float
    backlog: int
    in_flight: int
    retrying: int
    dead: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """How everything stands.

    Attributes:
        number: grows with each look.
        at: when it was taken; aware, UTC.
        stats, subscriptions, workers: as the bus says; those of the last answer where there is an error.
        latency: seconds for one round trip to the store.
        outbox: how the bus's outbox stands, if it has one; it answers while the transport is away.
        error: why the store did not answer this time.
    """

    number: int
    at: datetime
    stats: Stats = field(default_factory=Stats)
    subscriptions: Mapping[str, SubscriptionInfo] = field(default_factory=dict)
    workers: Sequence[WorkerInfo] = ()
    latency: float = 0.0
    outbox: OutboxStats | None = None
    error: str | None = None

    def stats_of(self, name: str) -> SubscriptionStats:
        """The figures of one subscription."""
        return self.stats.get(name, _NOTHING)


class Pulse:
    """Looks at the bus about once a second while somebody wants to know."""

    def __init__(self, bus: Bus) -> None:
        self.history: deque[dict[str, Gauge]] = deque(maxlen=_MEMORY)
        self._bus = bus
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fresh = asyncio.Condition()
        self._last = Snapshot(number=0, at=datetime.now(UTC))
        self._asked_at = 0.0
        self._held = 0
        self._pauses: Counter[float] = Counter()
        self._stirred = asyncio.Event()
        self._drawn = 0.0

    @property
    def last(self) -> Snapshot:
        """The newest snapshot there is, however old."""
        return self._last

    async def now(self) -> Snapshot:
        """The newest snapshot; the first one is waited for.

        Raises:
            PostbusError: when the bus cannot be opened.
        """
        self._start()
        if self._last.number == 0:
            await self.after(0)
        return self._last

    async def after(self, number: int) -> Snapshot:
        """The next snapshot behind this one.

        Raises:
            PostbusError: when the bus cannot be opened.
        """
        self._start()
        task = self._task
        async with self._fresh:
            while self._last.number <= number:
                if task is None or task.done():
                    break
                await self._fresh.wait()
        if task is not None and task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
        return self._last

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the bus open meanwhile, though nobody looks."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._asked_at = time.monotonic()

    @contextmanager
    def watched(self, pause: float) -> Iterator[None]:
        """Somebody wants a look about every `pause` seconds meanwhile."""
        self._pauses[pause] += 1
        try:
            yield
        finally:
            self._pauses[pause] -= 1

    def stir(self) -> None:
        """Look again at once: something was done."""
        self._stirred.set()

    def drew(self, seconds: float) -> None:
        """So long took it to draw what was seen, for everybody together."""
        self._drawn += seconds

    def _start(self) -> None:
        self._asked_at = time.monotonic()
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._loop is not loop:
            self._loop = loop
            self._fresh = asyncio.Condition()
            self._stirred = asyncio.Event()
            self._task = asyncio.create_task(self._beat(), name="postbus-dashboard")

    async def _beat(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                try:
                    await self._bus.stats()
                except Closed:  # nobody else has opened it: the program around us serves pages only
                    await stack.enter_async_context(self._bus)
                except PostbusError:  # it is open, and the store does not answer: that is to be shown
                    pass
                while self._held or time.monotonic() - self._asked_at < _IDLE:
                    began = time.monotonic()
                    self._stirred.clear()
                    await self._look()
                    await self._rest(began, time.monotonic() - began)
        finally:
            async with self._fresh:
                self._fresh.notify_all()

    async def _rest(self, began: float, looked: float) -> None:
        """Until the next look is due; what drawing costs is known only afterwards."""
        self._drawn = 0.0
        await asyncio.sleep(_SOONEST)
        while (left := began + self._pause(looked) - time.monotonic()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _EVERY)):
                    await self._stirred.wait()
                return

    def _pause(self, looked: float) -> float:
        wanted = min((pause for pause, count in self._pauses.items() if count), default=_EVERY)
        wanted = min(wanted, _OLDEST)
        return min(_SLOWEST, max(wanted, looked * _LOOKING, self._drawn * _DRAWING))

    async def _look(self) -> None:
        last = self._last
        outbox = last.outbox
        try:
            outbox = None if self._bus.outbox is None else await self._bus.outbox.stats()
            store = inspectable(self._bus.transport)
            latency = await store.ping()
            stats = await self._bus.stats()
            infos = {info.name: info for info in await self._bus.subscriptions.list()}
            workers = await self._bus.workers()
        except PostbusError as error:
            found = Snapshot(
                number=last.number + 1,
                at=last.at,
                stats=last.stats,
                subscriptions=last.subscriptions,
                workers=last.workers,
                outbox=outbox,
                error=str(error),
            )
        else:
            found = Snapshot(
                number=last.number + 1,
                at=datetime.now(UTC),
                stats=stats,
                subscriptions=infos,
                workers=workers,
                latency=latency,
                outbox=outbox,
            )
            now = time.time()
            self.history.append(
                {name: Gauge(now, one.backlog, one.in_flight, one.retrying, one.dead) for name, one in stats.items()}
            )
        self._last = found
        async with self._fresh:
            self._fresh.notify_all()

    def recent(self, name: str | None, what: str, points: int = 60) -> list[float]:
        """The last values of one figure, oldest first; of all subscriptions together where no name is given."""
        last = list(self.history)[-points:]
        return [
            float(
                sum(getattr(gauge, what) for gauge in moment.values())
                if name is None
                else getattr(moment[name], what)
                if name in moment
                else 0
            )
            for moment in last
        ]
