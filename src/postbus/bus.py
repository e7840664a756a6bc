"""The bus: ties declarations, publishing, workers and inspection to one transport.  Decides nothing itself."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack
from uuid import UUID

from .adapters import transaction_of
from .address import Address, Settings
from .background import Background, worker_settings
from .catalog import Catalog, Hook
from .clock import Clock, Span, SystemClock, seconds
from .codec import Codec, codec_named
from .context import Context
from .dispatch import Dispatch
from .envelope import Envelope
from .environment import settings_from
from .errors import ConfigError, PostbusError
from .event import valid_name
from .explain import Explainer, Explanation
from .given import given_by
from .hold import OUTBOX
from .inspection import Events, Health, Stats, Subscriptions, inspectable
from .journal import Journal
from .letters import DeadLetters
from .lifecycle import refuse_loop
from .lineage import Lineage, lineage_of
from .local import Handlers
from .middleware import AroundPublish, Middleware
from .observe import Counters, Observer
from .options import NO_OPTIONS, Options, PublishOptions
from .outbox import Outbox, opening
from .publish import Publisher
from .relay import Relay
from .retries import Retries
from .router import Handler, Router
from .slots import Isolate
from .subscription import Subscriber
from .tally import Tally
from .threads import Threads
from .transaction import Transaction
from .transport import SubscriptionSpec, Transport, WorkerInfo
from .wishes import Wish, wish
from .worker import Worker, WorkerSettings

__all__ = ["Bus"]

T = TypeVar("T")

# Publishes that wait for nothing come at most 256 in a row: half a millisecond, and what a worker beside them holds.
_TURN = 255


class Bus(Router):
    """An event bus on one transport.  Declare on it, open it, publish; workers run its subscribers.

    Args:
        url: picks the transport: `memory://`, `sqlite:///path`, `redis://host`; or what a transport made of a client.
        namespace: prefixes what is stored, so that several environments share a server and nothing else.
        codec: 'msgpack', 'json', or your own `Codec`.
        outbox: URL of the database whose transactions publishes join, where the transport is another store.
        transactions: where transactional subscribers get their transaction from, when not from the transport's own
            database: a `sessionmaker`, an `async_sessionmaker`, a pool of psycopg_pool or asyncpg, or a function that
            returns a context manager around a connection or session.
        middleware: made by `around_delivery`, `around_publish` and `around_thread`; the first is outermost.
        hooks: what is done to sealed envelopes and undone before they are opened, such as `Signing`.
        clock: what time it is, for tests.
        lease: seconds after which the work of a vanished worker is taken over.
        grace: seconds that running subscribers get at shutdown.
        publish_timeout: seconds within which `publish()` ends, one way or the other.
        max_size: bytes of an encoded event.
        concurrency: deliveries that run at once in one worker process.
        retain: seconds (or timedelta) for which finished events are kept as history.
        require_subscription: publishing an event that no subscription takes raises.
        declare: opening declares this program's subscriptions; False leaves that to `setup()`.
        unknown_after: seconds for which an event unknown here is offered to others before it becomes a dead letter.
        journal: write down what happens, for charts and `bus.journal`: a small write a second.

    Raises:
        ConfigError: for whatever would not work later, naming the value and what was expected.
    """

    _observers: tuple[Observer, ...] = ()

    def __init__(
        self,
        url: str | Address = "memory://",
        *,
        namespace: str = "postbus",
        codec: str | Codec = "msgpack",
        outbox: str | None = None,
        transactions: Any = None,
        middleware: Sequence[Middleware] = (),
        hooks: Sequence[Hook] = (),
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
        journal: bool = True,
    ) -> None:
        super().__init__()
        self.counters = Counters()
        middleware = _checked(middleware)
        address = self._address = Address.parse(url)
        settings = _settings(namespace, clock, retain, publish_timeout, max_size)
        self._life = opening(outbox, address, settings, declares=declare, specs=self._specs)
        self._entrance = self._life.entrance
        self._catalog = Catalog(
            _codec(address.options.get("codec", codec)),  # memory://?codec=json, which need not serialise, was asked to
            max_size=max_size,
            objects=self._life.transport.traits.objects,
            hooks=hooks,
        )
        self._local = Handlers(self._all_handlers, self._catalog, self.counters, self._contexts_of)
        self.__dict__["call_sync"] = self._local.call_sync  # the hottest there is: one layer is a quarter of its time
        self._publisher = Publisher(
            self,
            catalog=self._catalog,
            handlers=self._local,
            counters=self.counters,
            clock=settings.clock,
            middleware=[m for m in middleware if isinstance(m, AroundPublish)],
            timeout=settings.publish_timeout,
            require_subscription=require_subscription,
            relayed=outbox is not None,
        )
        self._entrance.follow(self._publisher.bind)
        self._spots, self.tally = self._publisher.spots, Tally(settings.clock.time)
        self.marks = self._given = given_by(transactions, namespace, self._publisher.followers, self._life.ready)
        self._background = Background(
            bus=self,
            life=self._life,
            subscribers=self._all_subscribers,
            catalog=self._catalog,
            counters=self.counters,
            clock=settings.clock,
            middleware=middleware,
            settings=worker_settings(concurrency=concurrency, lease=lease, grace=grace),
            unknown_after=seconds(unknown_after, "unknown_after"),
            followers=self._publisher.followers,
            given=self._given,
            tally=self.tally,
            require_subscription=require_subscription,
        )
        self._open_books(settings.clock, on=bool(journal))

    def _open_books(self, clock: Clock, *, on: bool) -> None:
        """Everything that shows and mends what is stored."""
        self.journal = Journal(self._life.ready, self.tally, self.counters, clock, on=on)
        self._life.accompany(self.journal)
        if self._life.transport.traits.shared:  # else nobody could look but a worker here, which adds up too
            self.add_up()
        elsewhere = {} if self._entrance is self._life else {OUTBOX: self._entrance.ready}
        self.dead = DeadLetters(self._life.ready, self._catalog, self.journal, elsewhere, marks=self._given)
        self.subscriptions = Subscriptions(self._life.ready, self.journal, elsewhere)
        self.outbox = Outbox(self._entrance, self.dead, self.subscriptions, self._catalog) if elsewhere else None
        self.events = Events(self._life.ready, self._catalog)
        self.retries = Retries(self._life.ready, self._catalog, self.journal)
        self._explainer = Explainer(self._life.ready, self.events, self.journal, clock)

    @classmethod
    def from_env(cls, prefix: str = "POSTBUS_", environ: Mapping[str, str] | None = None, **defaults: Any) -> Bus:
        """Make a bus from `POSTBUS_URL`, `POSTBUS_NAMESPACE`, `POSTBUS_LEASE` and so on; `defaults` fill the gaps.

        Raises:
            ConfigError: when a variable does not fit its setting.
        """
        return cls(**{**defaults, **settings_from(os.environ if environ is None else environ, prefix)})

    # -- open and close

    @asynccontextmanager
    async def opened(self, *, declare: bool = True) -> AsyncIterator[Bus]:
        """As `async with bus:`; with `declare=False` nothing is declared, for who only looks."""
        before, self._life.declares = self._life.declares, self._life.declares and declare
        try:
            async with self:
                yield self
        finally:
            self._life.declares = before

    async def __aenter__(self) -> Self:
        await self._life.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._life.close()

    def __enter__(self) -> Self:
        refuse_loop("with bus:", "async with bus:")
        self._life.open_sync()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._life.close_sync()

    async def setup(self) -> None:
        """Create what the transport needs and make this program's declarations current; for deploys, before traffic.

        Idempotent, and safe from several replicas at once.
        """
        async with self:
            await self._life.ready()
            await self._life.declare(newest=True)
            if self._given is not None:
                await self._given.make()

    def _changed(self) -> None:
        super()._changed()
        self._local.changed()
        self._publisher.changed()
        self._life.changed()
        for name, version, fn in self._all_upcasters():
            self._catalog.upcast(name, version, fn)

    # -- publish

    async def publish(self, event: object, **options: Unpack[PublishOptions]) -> Envelope:
        """Run the in-process handlers of an event, then store it for every subscription that takes it.

        When this returns, the event is stored at the transport's level of durability.  The first error of a handler is
        raised, and nothing is stored.

        Args:
            event: an instance of an `@event` class, or a `RawEvent`.
            key: the aggregate's id; default what the class's mark says.
            id: for a publish that may be repeated: the transport stores an id once.
            headers: text to travel with it.
            delay, at: seconds, or an aware datetime, before which no subscriber receives it.
            expires: seconds, or an aware datetime, after which it is no longer worth delivering: a dead letter then.
            within: a connection, session or `bus.transaction(...)`: handlers and storing happen in that transaction.

        Raises:
            UnknownEvent, InvalidName, CodecError, TooLarge: before anything happened.
            PublishFailed: nothing was stored; `TransportFull` when there is no room.
            PublishUnknown: it may have been stored; publishing again with the same `id` is safe.
        """
        if not self._entrance.prompt:
            await self._entrance.ready(options.get("within"))
        if (
            not options
            and (on_the_spot := self._spots.get(type(event))) is not None
            and (envelope := on_the_spot(event)) is not None
        ):
            if not self.counters.published & _TURN:  # a loop that only publishes must let the event loop turn
                await asyncio.sleep(0)
            return envelope
        return await self._publisher.publish(event, Options(**options) if options else NO_OPTIONS)

    async def publish_many(self, events: Iterable[object], **options: Unpack[PublishOptions]) -> list[Envelope]:
        """Publish several events as one batch for each topic; options as of `publish`.

        Raises:
            PublishFailed, PublishUnknown: `results` says for each event whether it was stored.
        """
        batch = tuple(events)
        await self._entrance.ready(options.get("within"))
        return await self._publisher.publish_many(batch, Options(**options)) if batch else []

    def publish_sync(self, event: object, **options: Unpack[PublishOptions]) -> Envelope:
        """As `publish`, on the caller's thread and connection.

        Raises:
            ConfigError: on a running event loop's thread, and when an `async def` handler would be reached.
        """
        refuse_loop("bus.publish_sync(...)", "await bus.publish(...)")
        if not self._entrance.prompt:
            self._entrance.ready_sync(options.get("within"))
        chosen = Options(**options) if options else NO_OPTIONS
        return self._publisher.publish_sync((event,), chosen, self._entrance.run)[0]

    def publish_many_sync(self, events: Iterable[object], **options: Unpack[PublishOptions]) -> list[Envelope]:
        """As `publish_many`, on the caller's thread and connection."""
        refuse_loop("bus.publish_many_sync(...)", "await bus.publish_many(...)")
        batch = tuple(events)
        self._entrance.ready_sync(options.get("within"))
        return self._publisher.publish_sync(batch, Options(**options), self._entrance.run) if batch else []

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

    def _specs(self) -> Sequence[SubscriptionSpec]:
        return [subscriber.spec() for subscriber in self._all_subscribers()]

    def _contexts_of(self, event: object, within: Any) -> Callable[[], Context]:
        return self._publisher.contexts_of(event, within)

    def transaction(self, connection: Any) -> Transaction:
        """Begin and commit a transaction on a raw driver connection, with `with` or `async with`.

        `publish(..., within=tx)` stores in it, and after-commit handlers run when it has committed.

        Args:
            connection: of psycopg, asyncpg, sqlite3 or aiosqlite, or a Connection or AsyncConnection of SQLAlchemy,
                with no transaction begun.
        """
        return Transaction(transaction_of(connection), self._publisher.followers, self.ensure_open)

    def ensure_open(self) -> None:
        """Open the bus for sync code, as its first publish would.

        For before a transaction of yours begins, whose lock on SQLite would keep the bus from opening inside it.
        """
        if not self._entrance.prompt:
            self._entrance.ready_sync()

    # -- background

    def make_worker(
        self,
        *,
        only: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        isolate: Isolate | None = None,
        draining: bool = False,
        **settings: Any,
    ) -> Worker:
        """Return a worker for this program's subscribers, not yet started.

        Args:
            only: names of the subscriptions to run; None means all.
            exclude: names of those not to run.
            isolate: runs suspects in child processes; see `postbus.isolate`.
            draining: run here what a worker would isolate in a process of its own; for tests and scripts.
            settings: fields of `WorkerSettings` that differ from the bus's own.

        Raises:
            ConfigError: when a name is unknown, or a subscriber cannot run here.
        """
        self.add_up()
        return self._background.worker(
            only=only,
            exclude=exclude,
            isolate=isolate,
            observers=self._observers,
            changes=settings,
            draining=draining,
        )

    def make_relay(self, **settings: Any) -> Relay:
        """Return a relay for this bus's outbox, not yet started; `settings` are fields of `RelaySettings`.

        Workers have one of their own: this is for a process that does nothing else.

        Raises:
            ConfigError: when the bus has no outbox.
        """
        return self._background.relay(settings)

    def make_dispatch(self, name: str) -> Dispatch:
        """Return what runs the deliveries of one subscription, for a child process that has no worker of its own.

        Raises:
            ConfigError: when no subscriber has that name.
        """
        return self._background.dispatches(self._background.chosen([name], ()), Threads())[0]

    @asynccontextmanager
    async def worker(self, *, relay: bool = True, **options: Any) -> AsyncIterator[Worker]:
        """Run this program's subscribers beside the body, such as an HTTP server; options of `make_worker`.

        A bus with an outbox relays beside its worker; `relay=False` leaves that to others.
        """
        async with self:
            await self._life.ready()
            worker = self.make_worker(**options)
            await worker.start()
            try:
                async with self._background.beside(worker, relay=relay, heeds=self.journal.enabled):
                    if not options.get("draining"):
                        await self._background.warn_of_orphans(worker)
                        await self._background.warn_of_the_server()
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
        subscriptions and dead letters do not count.  With a manual clock only what is due now is run.  What still runs
        after `timeout` is cancelled and handed back, unless `grace=` gives it longer.

        Raises:
            TimeoutError: when work that could run was not finished in time, naming where it stands.
        """
        until = time.monotonic() + seconds(timeout, "timeout")
        async with self.worker(draining=True, **{"grace": 0, **options}) as worker:
            await self._background.drain(worker, until)

    # -- see

    async def health(self) -> Health:
        """Whether the bus can do its work; never raises for a transport that cannot be reached."""
        try:
            store = inspectable(await self._life.ready())
            latency = await store.ping()
            stats = await self.stats()
            outbox = None if self.outbox is None else await self.outbox.stats()
        except PostbusError as error:
            return Health(connected=False, error=str(error))
        return Health(
            connected=True, latency=latency, backlog=stats.backlog, oldest_age=stats.oldest_age, dead=stats.dead,
            outbox=outbox,
        )  # fmt: skip

    async def stats(self) -> Stats:
        """How every durable subscription stands."""
        found = await inspectable(await self._life.ready()).stats()
        return Stats({s.name: s for s in found})

    async def workers(self) -> Sequence[WorkerInfo]:
        """The workers that live, of every process that runs subscribers of this store."""
        return await inspectable(await self._life.ready()).workers()

    async def tell_worker(self, owner: str, what: Wish) -> None:
        """Ask one of `workers()` to be 'quiet' (claim nothing more), to 'resume' or to 'stop'; it hears in a second.

        A worker that is stopped so ends as at a shutdown, and `postbus worker` starts none in its place.  One whose
        journal is off hears nothing.
        """
        await wish(await self._life.ready(), self.tally.now(), owner, what)
        await self.journal.note(f"worker.{what}", owner)

    async def ping(self) -> float:
        """Seconds for one round trip to the transport.

        Raises:
            TransportError: when it cannot be reached; with an outbox, a bus that is open publishes nevertheless.
        """
        return await inspectable(await self._life.ready()).ping()

    def run_sync(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this bus, such as `bus.stats()`, for a caller without an event loop.

        Raises:
            ConfigError: on a running event loop's thread.
        """
        try:
            refuse_loop("bus.run_sync(...)", "await")
            self._life.ready_sync()
        except BaseException:
            work.close()
            raise
        return self._life.run(work)

    def add_up(self) -> None:
        """Add up in `tally` what is published here, from now on; where processes share a transport it always is."""
        self._publisher.add_up(self.tally)

    async def explain(self, event_id: UUID) -> Explanation:
        """Say in words how every subscription stands with an event, and why it runs or does not."""
        return await self._explainer.explain(event_id)

    async def lineage(self, event_id: UUID) -> Lineage:
        """The first event of its chain and all that followed from it, as far as they are still stored."""
        return await lineage_of(self.events, event_id)

    def observe(self, observer: Observer) -> None:
        """Call `observer(fact)` for what happens in this process; it must be quick, and must not raise."""
        self._observers = (*self._observers, observer)
        self._publisher.show(self._observers)

    @property
    def transport(self) -> Transport:
        """The transport, for `doctor` and for tests."""
        return self._life.transport

    @property
    def worker_settings(self) -> WorkerSettings:
        """How its workers run, where nothing else is said."""
        return self._background.settings

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


def _settings(
    namespace: str, clock: Clock | None, retain: Span | None, publish_timeout: Span, max_size: int
) -> Settings:
    return Settings(
        namespace=valid_name(namespace, "namespace"),
        clock=clock or SystemClock(),
        retain=None if retain is None else seconds(retain, "retain"),
        publish_timeout=seconds(publish_timeout, "publish_timeout", least=0.001),
        max_size=_whole(max_size, "max_size", 1),
    )


def _codec(codec: str | Codec) -> Codec:
    if isinstance(codec, str):
        return codec_named(codec)
    if not hasattr(codec, "content_type"):
        raise ConfigError(f"codec={codec!r}: expected 'msgpack', 'json', or an object with the methods of Codec")
    return codec


def _whole(value: int, what: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what}={value!r}: expected a whole number from {least}")
    return value


def _checked(middleware: Sequence[Middleware]) -> tuple[Middleware, ...]:
    for one in middleware:
        if not isinstance(one, Middleware):
            raise ConfigError(
                f"middleware {one!r} is not marked: decorate it with @around_delivery, @around_publish or "
                f"@around_thread"
            )
    return tuple(middleware)
