"""The bus: one object that ties declarations, publishing, workers and inspection to one transport.  Decides nothing itself."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakSet

from .address import Address, Settings
from .catalog import Catalog
from .clock import Clock, Span, SystemClock, seconds
from .codec import Codec, codec_named
from .connect import connect
from .context import Context
from .dispatch import Dispatch
from .envelope import Envelope
from .errors import Closed, ConfigError, ForkError, PostbusError
from .event import valid_name
from .inbox import Inbox
from .inspection import DeadLetters, Events, Health, Stats, Subscriptions, inspectable
from .local import Handlers
from .middleware import AroundDelivery, AroundPublish, Middleware
from .observe import Counters, Observer, log
from .portal import Portal
from .publish import NO_OPTIONS, Options, Publisher
from .router import Handler, Router
from .subscription import Subscriber
from .threads import Threads
from .transaction import Followers, Transaction
from .transport import Enlisting, SubscriptionStats, Transacting, Transport
from .worker import Isolate, Worker, WorkerSettings

__all__ = ["Bus"]

T = TypeVar("T")

# Transports that a fork left behind: closing them in the child would disturb the parent's connections.
_abandoned: list[Transport] = []
_buses: WeakSet[Bus] = WeakSet()


def _forked() -> None:
    """In a forked child no bus is ready, whatever it was in the parent."""
    for bus in _buses:
        bus._prompt = False


os.register_at_fork(after_in_child=_forked)


class Bus(Router):
    """An event bus on one transport.  Declare on it, open it, publish; workers run its subscribers.

    Args:
        url: picks the transport: `memory://`, `sqlite:///path`.
        namespace: prefixes what is stored, so that several environments share a server and nothing else.
        codec: 'msgpack', 'json', or your own `Codec`.
        outbox: URL of the database whose transactions publishes join, where the transport is another store.
        transactions: where transactional subscribers get their transaction from.
        middleware: made by `around_delivery` and `around_publish`; the first is outermost.
        clock: what time it is, for tests.
        lease: seconds after which the work of a vanished worker is taken over.
        grace: seconds that running subscribers get at shutdown.
        publish_timeout: seconds within which `publish()` ends, one way or the other.
        max_size: bytes of an encoded event.
        concurrency: deliveries that run at once in one worker process.
        retain: seconds (or timedelta) for which finished events are kept as history.
        require_subscription: publishing an event that no subscription takes raises.
        declare: opening declares this program's subscriptions; False leaves that to `setup()`.
        unknown_after: seconds for which an event unknown here is offered to other workers before it becomes a dead letter.

    Raises:
        ConfigError: for whatever would not work later, naming the value and what was expected.
    """

    def __init__(
        self,
        url: str = "memory://",
        *,
        namespace: str = "postbus",
        codec: str | Codec = "msgpack",
        outbox: str | None = None,
        transactions: Any = None,
        middleware: Sequence[Middleware] = (),
        clock: Clock | None = None,
        lease: Span = 30,
        grace: Span = 25,
        publish_timeout: Span = 5,
        max_size: int = 1024 * 1024,
        concurrency: int = 100,
        retain: Span | None = None,
        require_subscription: bool = False,
        declare: bool = True,
        unknown_after: Span = 300,
    ) -> None:
        super().__init__()
        if outbox is not None or transactions is not None:
            raise ConfigError("outbox= and transactions= need an SQL server's transport, which is not in this version")
        self._address = Address.parse(url)
        self._settings = Settings(
            namespace=valid_name(namespace, "namespace"),
            clock=clock or SystemClock(),
            retain=None if retain is None else seconds(retain, "retain"),
            publish_timeout=seconds(publish_timeout, "publish_timeout", least=0.001),
            max_size=_whole(max_size, "max_size", 1),
        )
        self.worker_settings = WorkerSettings(
            concurrency=_whole(concurrency, "concurrency", 1),
            lease=seconds(lease, "lease", least=0.05),
            grace=seconds(grace, "grace"),
        )
        self.counters = Counters()
        self._clock = self._settings.clock
        self._declares = declare
        self._unknown_after = seconds(unknown_after, "unknown_after")
        self._middleware = _checked(middleware)
        self._transport = connect(url, self._settings)
        chosen = codec_named(codec) if isinstance(codec, str) else codec
        self._catalog = Catalog(chosen, max_size=max_size, objects=self._transport.traits.objects)
        self._local = Handlers(self._all_handlers, self._catalog, self.counters, self._contexts_of)
        # The hottest call there is: one layer less is a quarter of its time.
        self.__dict__["call_sync"] = self._local.call_sync
        self._publisher = Publisher(
            self,
            catalog=self._catalog,
            handlers=self._local,
            counters=self.counters,
            clock=self._clock,
            middleware=[m for m in self._middleware if isinstance(m, AroundPublish)],
            timeout=self._settings.publish_timeout,
            require_subscription=require_subscription,
        )
        self._publisher.bind(self._transport)
        # Open, declared, and in the process that opened it: a publish need not look any further.
        self._prompt = False
        self._pid = os.getpid()
        self._opens = 0
        self._closed = False
        self._opening: asyncio.Lock | None = None
        self._undeclared = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._portal: Portal | None = None
        self._observers: tuple[Observer, ...] = ()
        _buses.add(self)
        self.dead = DeadLetters(self._ready, self._catalog)
        self.subscriptions = Subscriptions(self._ready)
        self.events = Events(self._ready, self._catalog)

    @classmethod
    def from_env(cls, prefix: str = "POSTBUS_", environ: Mapping[str, str] | None = None, **defaults: Any) -> Bus:
        """Make a bus from `POSTBUS_URL`, `POSTBUS_NAMESPACE`, `POSTBUS_LEASE` and so on; `defaults` fill the gaps.

        Raises:
            ConfigError: when a variable does not fit its setting.
        """
        from_environment = os.environ if environ is None else environ
        given: dict[str, Any] = dict(defaults)
        for name, read in _FROM_ENV.items():
            text = from_environment.get(prefix + name.upper())
            if text is not None:
                try:
                    given[name] = read(text)
                except ValueError as error:
                    raise ConfigError(f"{prefix}{name.upper()}={text!r} does not fit: {error}") from error
        return cls(**given)

    # -- open and close

    @asynccontextmanager
    async def opened(self, *, declare: bool = True) -> AsyncIterator[Bus]:
        """As `async with bus:`; with `declare=False` nothing is declared, for who only looks."""
        before, self._declares = self._declares, self._declares and declare
        try:
            async with self:
                yield self
        finally:
            self._declares = before

    async def __aenter__(self) -> Bus:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    def __enter__(self) -> Bus:
        self._refuse_loop("with bus:", "async with bus:")
        self._adopt()
        self._sync(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sync(self._close())
        if self._opens == 0 and self._portal is not None:
            self._portal.close()
            self._portal = None

    async def _open(self) -> None:
        self._adopt()
        if self._opening is None or self._opens == 0:
            self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            self._opens += 1
            if self._opens > 1:
                return
            try:
                await self._transport.open()
                self._loop = asyncio.get_running_loop()
                self._closed = False
                self._undeclared = True
                if self._declares:
                    await self._declare()
            except BaseException:
                self._opens -= 1
                raise

    async def _close(self) -> None:
        if self._opens == 0:
            return
        self._opens -= 1
        if self._opens == 0:
            self._closed = True
            self._prompt = False
            self._opening = None
            await self._transport.close()

    def _adopt(self) -> None:
        """After a fork this process needs connections of its own."""
        if self._pid != os.getpid():
            _abandoned.append(self._transport)
            self._transport = connect(self._address.url, self._settings)
            self._pid = os.getpid()
            self._opens = 0
            self._opening = None
            self._portal = None
            self._loop = None
            self._publisher.bind(self._transport)

    async def _ready(self) -> Transport:
        """The open transport, with what is declared declared."""
        if self._pid != os.getpid():
            raise ForkError("the bus was opened before a fork: open it in this process, with `async with bus:`")
        if self._opens == 0:
            raise Closed("the bus is not open: use it inside `async with bus:` or `with bus:`")
        if self._undeclared and self._declares:
            await self._declare()
        self._prompt = True
        return self._transport

    def _ready_sync(self) -> Transport:
        """As `_ready`, opening lazily: a web worker that forks has no better moment."""
        if self._pid != os.getpid():
            if not self._transport.traits.shared:
                raise ForkError(f"{self._address} lives in one process, and this is a forked child of it")
            self._adopt()
        if self._opens == 0:
            if self._closed:
                raise Closed("the bus is closed: use it inside `with bus:`")
            self._sync(self._open())
        elif self._undeclared and self._declares:
            self._sync(self._declare())
        self._prompt = True
        return self._transport

    def _sync(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine for a sync caller, on the loop that the bus is open on, else on a loop thread."""
        if self._opens and self._loop is not None and self._portal is None and self._loop.is_running():
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        if self._portal is None:
            with self._lock:
                self._portal = self._portal or Portal()
        return self._portal.run(work)

    @staticmethod
    def _refuse_loop(call: str, instead: str) -> None:
        if asyncio._get_running_loop() is not None:
            raise ConfigError(f"`{call}` would block the event loop that runs on this thread: use `{instead}`")

    async def _declare(self, *, newest: bool = False) -> None:
        self._undeclared = False
        specs = [subscriber.spec() for subscriber in self._all_subscribers()]
        try:
            conflicts = await self._transport.declare(specs, newest=newest)
        except BaseException:
            self._undeclared = True
            raise
        for conflict in conflicts:
            log.warning(
                "subscription %r keeps a newer declaration than this program's: %s; run `postbus setup` if this "
                "program is meant to be the newest", conflict.subscription, conflict.message,
            )  # fmt: skip

    async def setup(self) -> None:
        """Create what the transport needs and make this program's declarations current; for deploys, before traffic.

        Idempotent, and safe from several replicas at once.
        """
        async with self:
            await self._declare(newest=True)

    def _changed(self) -> None:
        super()._changed()
        self._local.changed()
        self._undeclared = True
        self._prompt = False
        for name, version, fn in self._all_upcasters():
            self._catalog.upcast(name, version, fn)

    # -- publish

    async def publish(
        self,
        event: object,
        *,
        key: object = None,
        id: UUID | None = None,  # noqa: A002 - the word of the public API
        headers: Mapping[str, str] | None = None,
        delay: Span | None = None,
        at: datetime | None = None,
        expires: Span | datetime | None = None,
        within: Any = None,
    ) -> Envelope:
        """Run the in-process handlers of an event, then store it for every subscription that takes it.

        When this returns, the event is stored at the transport's level of durability.  The first error of a handler is
        raised, and nothing is stored.

        Args:
            event: an instance of an `@event` class, or a `RawEvent`.
            key: the aggregate's id; default what the class's mark says.
            id: for a publish that may be repeated: the transport stores an id once.
            headers: text to travel with it.
            delay: seconds before which no subscriber receives it; `at` is the same as an aware datetime.
            expires: seconds, or an aware datetime, after which it is no longer worth delivering: a dead letter then.
            within: a connection, session or `bus.transaction(...)`: handlers and storing happen in that transaction.

        Raises:
            UnknownEvent, InvalidName, CodecError, TooLarge: before anything happened.
            PublishFailed: nothing was stored; `TransportFull` when there is no room.
            PublishUnknown: it may have been stored; publishing again with the same `id` is safe.
        """
        if not self._prompt:
            await self._ready()
        if key is None and id is None and headers is None and delay is None and at is None and expires is None:
            if within is None:
                return self._publisher.on_the_spot(event) or await self._publisher.publish(event, NO_OPTIONS)
        options = Options(key=key, id=id, headers=headers, delay=delay, at=at, expires=expires, within=within)
        return await self._publisher.publish(event, options)

    async def publish_many(self, events: Iterable[object], **options: Any) -> list[Envelope]:
        """Publish several events as one batch for each topic; options as of `publish`.

        Raises:
            PublishFailed, PublishUnknown: `results` says for each event whether it was stored.
        """
        batch = tuple(events)
        await self._ready()
        return await self._publisher.publish_many(batch, Options(**options)) if batch else []

    def publish_sync(self, event: object, **options: Any) -> Envelope:
        """As `publish`, on the caller's thread and connection.

        Raises:
            ConfigError: on a running event loop's thread, and when an `async def` handler would be reached.
        """
        self._refuse_loop("bus.publish_sync(...)", "await bus.publish(...)")
        if not self._prompt:
            self._ready_sync()
        chosen = Options(**options) if options else NO_OPTIONS
        return self._publisher.publish_sync((event,), chosen, self._sync)[0]

    def publish_many_sync(self, events: Iterable[object], **options: Any) -> list[Envelope]:
        """As `publish_many`, on the caller's thread and connection."""
        self._refuse_loop("bus.publish_many_sync(...)", "await bus.publish_many(...)")
        batch = tuple(events)
        self._ready_sync()
        return self._publisher.publish_sync(batch, Options(**options), self._sync) if batch else []

    # -- in-process only

    async def call(self, event: object, within: Any = None) -> None:
        """Run the in-process handlers in the order of registration; stop at the first error and raise it."""
        await self._local.call(event, self._contexts_of(event, within))

    def call_sync(self, event: object, within: Any = None) -> None:
        """As `call`, on the caller's thread."""
        self._local.call_sync(event, within)

    async def notify(self, event: object, within: Any = None) -> None:
        """Run all in-process handlers, then raise one `ExceptionGroup` with every failure."""
        await self._local.notify(event, self._contexts_of(event, within))

    def notify_sync(self, event: object, within: Any = None) -> None:
        """As `notify`, on the caller's thread."""
        self._local.notify_sync(event, self._contexts_of(event, within))

    def _contexts_of(self, event: object, within: Any) -> Callable[[], Context]:
        return self._publisher.contexts_of(event, within)

    def transaction(self, connection: Any) -> Transaction:
        """Begin and commit a transaction on a raw driver connection, with `with` or `async with`.

        `publish(..., within=tx)` stores in it, and after-commit handlers run when it has committed.
        """
        return Transaction(
            connection, Followers(self._surviving, self._publisher.run_after, self._publisher.run_after_sync)
        )

    def _surviving(self, connection: Any, ids: Sequence[bytes]) -> set[bytes]:
        if isinstance(self._transport, Enlisting):
            return set(self._transport.surviving(connection, ids))
        return set(ids)

    # -- background

    def make_worker(
        self,
        *,
        only: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        isolate: Isolate | None = None,
        **settings: Any,
    ) -> Worker:
        """Return a worker for this program's subscribers, not yet started.

        Args:
            only, exclude: names of subscriptions.
            isolate: runs suspects in child processes; see `postbus.isolate`.
            settings: fields of `WorkerSettings` that differ from the bus's own.

        Raises:
            ConfigError: when a name is unknown, or a subscriber cannot run here.
        """
        subscribers = self._chosen(only, exclude)
        for subscriber in subscribers:
            if subscriber.isolation == "process" and isolate is None:
                raise ConfigError(
                    f"subscriber {subscriber.name!r} has isolation='process', which needs `postbus worker module:bus`"
                )
            if subscriber.transactional and not isinstance(self._transport, Transacting):
                raise ConfigError(
                    f"subscriber {subscriber.name!r} is transactional, and {self._address} is in no database: use "
                    f"sqlite:///..., or write down yourself which context.idempotency_key is done"
                )
        return Worker(
            self._transport,
            self._dispatches(subscribers),
            settings=_replaced(self.worker_settings, settings),
            counters=self.counters,
            declare=self._declare,
            observers=self._observers,
            isolate=isolate,
        )

    def make_dispatch(self, name: str) -> Dispatch:
        """Return what runs the deliveries of one subscription, for a child process that has no worker of its own.

        Raises:
            ConfigError: when no subscriber has that name.
        """
        return self._dispatches(self._chosen([name], ()))[0]

    def _dispatches(self, subscribers: Iterable[Subscriber]) -> list[Dispatch]:
        threads = Threads()
        around = [m for m in self._middleware if isinstance(m, AroundDelivery)]
        transactions = Inbox(self._transport) if isinstance(self._transport, Transacting) else None
        return [
            Dispatch(
                subscriber,
                catalog=self._catalog,
                bus=self,
                middleware=around,
                clock=self._clock,
                luck=random.random,
                threads=threads,
                unknown_after=self._unknown_after,
                transactions=transactions,
            )
            for subscriber in subscribers
        ]

    def _chosen(self, only: Iterable[str] | None, exclude: Iterable[str]) -> list[Subscriber]:
        subscribers = self._all_subscribers()
        names = {s.name for s in subscribers}
        wanted, unwanted = None if only is None else set(only), set(exclude)
        for name in sorted(((wanted or set()) | unwanted) - names):
            have = f"there are {', '.join(sorted(names))}" if names else "there are none"
            raise ConfigError(f"no subscriber is named {name!r}: {have}")
        return [s for s in subscribers if (wanted is None or s.name in wanted) and s.name not in unwanted]

    @asynccontextmanager
    async def worker(self, **options: Any) -> AsyncIterator[Worker]:
        """Run this program's subscribers beside what the body does, such as an HTTP server; options of `make_worker`."""
        async with self:
            await self._ready()
            worker = self.make_worker(**options)
            await worker.start()
            try:
                yield worker
            finally:
                await worker.stop(0.0 if worker.failure is not None else None)

    async def run_worker(self, **options: Any) -> None:
        """Run this program's subscribers until cancelled; options of `make_worker`.

        Raises:
            TransportBroken: and whatever else ends a worker that must not stand still.
        """
        async with self.worker(**options) as worker:
            await worker.ended()

    async def drain(self, timeout: Span = 60, **options: Any) -> None:
        """Run all deliverable work here until nothing is left; for tests and scripts.

        Retries and delayed events that come due before `timeout` are waited for, later ones are left; paused
        subscriptions and dead letters do not count.  With a manual clock only what is due now is run.

        Raises:
            TimeoutError: when work that could run was not finished in time, naming where it stands.
        """
        until = time.monotonic() + seconds(timeout, "timeout")
        async with self.worker(**options) as worker:
            names = [s.name for s in self._chosen(options.get("only"), options.get("exclude", ()))]
            pause = 0.001
            while True:
                if worker.failure is not None:
                    raise worker.failure
                if worker.idle:
                    stats = await inspectable(self._transport).stats(names)
                    left = [s for s in stats if self._deliverable(s, until - time.monotonic())]
                    if not left and worker.idle:
                        return
                if time.monotonic() >= until:
                    raise TimeoutError(f"not drained: {await self._what_is_left(names)}")
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 0.05)

    def _deliverable(self, stats: SubscriptionStats, patience: float) -> bool:
        if stats.paused:
            return False
        if stats.backlog or stats.in_flight:
            return True
        horizon = max(0.0, patience) if isinstance(self._clock, SystemClock) else 0.0
        return stats.next_due is not None and stats.next_due <= horizon

    async def _what_is_left(self, names: Sequence[str]) -> str:
        stats = await inspectable(self._transport).stats(names)
        return "; ".join(
            f"{s.name}: {s.backlog} ready, {s.in_flight} running, {s.scheduled} scheduled, {s.retrying} retrying"
            for s in stats
        )

    # -- see

    async def health(self) -> Health:
        """Whether the bus can do its work; never raises for a transport that cannot be reached."""
        try:
            store = inspectable(await self._ready())
            latency = await store.ping()
            stats = await self.stats()
        except PostbusError as error:
            return Health(connected=False, error=str(error))
        return Health(
            connected=True, latency=latency, backlog=stats.backlog, oldest_age=stats.oldest_age, dead=stats.dead
        )

    async def stats(self) -> Stats:
        """How every durable subscription stands."""
        found = await inspectable(await self._ready()).stats()
        return Stats({s.name: s for s in found})

    def observe(self, observer: Observer) -> None:
        """Call `observer(fact)` for what happens in this process; it must be quick, and must not raise."""
        self._observers = (*self._observers, observer)
        self._publisher.observers = self._observers

    @property
    def transport(self) -> Transport:
        """The transport, for `doctor` and for tests."""
        return self._transport

    @property
    def catalog(self) -> Catalog:
        """The event classes this program knows."""
        interests = [h.interest for h in self._all_handlers()] + [s.interest for s in self._all_subscribers()]
        for interest in interests:
            for event_type in interest.types.values():
                self._catalog.add(event_type)
        return self._catalog

    @property
    def subscribers(self) -> Sequence[Subscriber]:
        """Every subscriber declared here and in included routers."""
        return tuple(self._all_subscribers())

    @property
    def handlers(self) -> Sequence[Handler]:
        """Every in-process handler declared here and in included routers, in the order they run."""
        return tuple(self._all_handlers())

    def __repr__(self) -> str:
        return f"Bus({str(self._address)!r})"


def _whole(value: int, what: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what}={value!r}: expected a whole number from {least}")
    return value


def _checked(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    for one in middleware:
        if not isinstance(one, AroundDelivery | AroundPublish):
            raise ConfigError(f"middleware {one!r} is not marked: decorate it with @around_delivery or @around_publish")
    return tuple(middleware)


def _replaced(base: WorkerSettings, changes: Mapping[str, Any]) -> WorkerSettings:
    known = {name: getattr(base, name) for name in base.__slots__}
    for name, value in changes.items():
        if name not in known:
            raise ConfigError(f"a worker has no setting {name!r}: expected {', '.join(sorted(known))}")
        if value is not None:
            known[name] = seconds(value, name) if name in ("lease", "grace") else value
    return WorkerSettings(**known)


def _yes(text: str) -> bool:
    answers = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in answers:
        raise ValueError("expected yes or no")
    return answers[text.lower()]


_FROM_ENV: dict[str, Callable[[str], Any]] = {
    "url": str,
    "namespace": str,
    "codec": str,
    "outbox": str,
    "lease": float,
    "grace": float,
    "publish_timeout": float,
    "max_size": int,
    "concurrency": int,
    "retain": lambda text: timedelta(seconds=float(text)),
    "require_subscription": _yes,
    "declare": _yes,
    "unknown_after": float,
}
