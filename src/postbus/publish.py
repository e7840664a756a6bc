"""The first half of the road: seal, run the handlers, append.  One way for sync and async, nested and transactional."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from time import time_ns
from typing import Any
from uuid import UUID

from .catalog import Catalog
from .clock import Clock, SystemClock, seconds
from .context import Context, Publishes
from .courier import Courier
from .envelope import Envelope, checked_headers
from .errors import ConfigError, PostbusError, PublishFailed, PublishUnknown, TransportError, TransportFull
from .event import RawEvent, key_text
from .gathering import Gathering, current, gather, joined, outer_of
from .local import Handlers
from .middleware import AroundPublish, Publishing, entered
from .observe import Counters, Fact, Published
from .options import NO_OPTIONS, Options
from .transaction import After, Followers, Pending, Transaction, connection_of
from .transport import Append, Direct, Duplicate, Enlisting, Immediate, Outgoing, Refused, Stored, Transport, Unknown

__all__ = ["Publisher"]


class Publisher:
    """Publishes for one bus.  Thread-safe; awaits nothing but handlers and the append."""

    def __init__(
        self,
        bus: Publishes,
        *,
        catalog: Catalog,
        handlers: Handlers,
        counters: Counters,
        clock: Clock,
        middleware: Sequence[AroundPublish],
        timeout: float,
        require_subscription: bool,
    ) -> None:
        self._bus = bus
        self._catalog = catalog
        self._handlers = handlers
        self._counters = counters
        self._now = clock.time
        self._system = isinstance(clock, SystemClock)  # whose time needs no detour through a float
        self._seal = catalog.seal
        # Class to what publishes its events on the spot; a snapshot of what is declared.
        self._spots: dict[type[Any], Callable[[object], Envelope | None]] = {}
        self._objects = catalog.objects
        self._middleware = tuple(middleware)
        self._timeout = timeout
        self._require = require_subscription
        self._courier: Courier | None = None
        self.followers = Followers(self._surviving, self.run_after, self.run_after_sync)
        self.observers: tuple[Callable[[Fact], None], ...] = ()

    def bind(self, transport: Transport) -> None:
        """Publish to this transport from now on: at first, and again after a fork."""
        self._transport = transport
        self._courier = None
        immediate = transport if isinstance(transport, Immediate) else None
        self._append_now = None if immediate is None else immediate.append_now
        # A transport that gains nothing from batches is called on the spot: no task, no future, no turn of the loop.
        self._direct = None if transport.traits.coalesce else self._append_now
        self._append_one = transport.append_one if isinstance(transport, Direct) else None
        self._spots = {}

    # -- the road, asynchronous

    def on_the_spot(self, event: object) -> Envelope | None:
        """Publish an event that needs nothing but sealing and a direct append; None, with nothing done, for others."""
        spot = self._spots.get(type(event))
        return None if spot is None or current.get() is not None else spot(event)

    def changed(self) -> None:
        """What is declared changed: an event that nobody handled in-process may be handled now."""
        self._spots = {}

    def _make_spot(self, event_type: type[Any]) -> None:
        """See to it that further events of this class, which nobody handles in-process, need no look at anything."""
        seal = None if event_type is RawEvent else self._catalog.sealer(event_type)
        if self._append_one is None or seal is None or self._middleware or not self._system:
            return
        append, counters, require = self._append_one, self._counters, self._require

        def spot(event: object) -> Envelope | None:
            try:
                envelope = seal(event, time_ns() // 1000)
            except PostbusError:
                counters.refused += 1
                raise
            result = append(Outgoing(envelope, event, 0.0, require))
            if type(result) is Stored and result.routes and not self.observers:
                counters.published += 1
                return envelope
            if result is None or type(result) is Refused:  # the long way waits for room, or raises
                return None
            self._judge((Outgoing(envelope, event),), (result,))
            return envelope

        self._spots[event_type] = spot

    async def publish(self, event: object, options: Options) -> Envelope:
        """Publish one event; see `Bus.publish`."""
        if options is NO_OPTIONS and not self._middleware and current.get() is None and self._handlers.bare(event):
            item = self._seal_plain(event)
            await self._append((item,), None)
            self._make_spot(type(event))
            return item.envelope
        return (await self.publish_many((event,), options))[0]

    async def publish_many(self, events: Sequence[object], options: Options) -> list[Envelope]:
        """Publish several events as one batch."""
        publishing, around = self._around(events, options)
        with around:
            outer = outer_of(self, options.within)
            mine = gather(self, outer, options.within)
            sealed = self._seal_all(events, options, publishing, mine.within)
            token = current.set(mine)
            try:
                for event, item in sealed:
                    self._take(mine, event, item)
                    if not self._handlers.bare(event):
                        await self._handlers.call(event, self._contexts(item.envelope, mine.within))
            finally:
                mine.open = False
                current.reset(token)
            if not joined(outer, mine):
                await self._append(mine.items, mine.within)
                if self._sent(mine):
                    await self.run_after(mine.after)
        return [item.envelope for _, item in sealed]

    async def _append(self, items: Sequence[Outgoing], within: Any) -> None:
        if within is not None:
            results = self._append_within(items, within)
        elif self._direct is None:
            results = await self._send(items)
        else:
            results = self._direct(items, 0)
            full = [n for n, r in enumerate(results) if isinstance(r, Refused) and isinstance(r.error, TransportFull)]
            if full:  # wait for room, with those that found none
                waited = await self._send([items[n] for n in full])
                results = list(results)
                for n, result in zip(full, waited, strict=True):
                    results[n] = result
        self._judge(items, results)

    async def _send(self, items: Sequence[Outgoing]) -> Sequence[Append]:
        loop = asyncio.get_running_loop()
        if self._courier is None or self._courier.loop is not loop:
            self._courier = Courier(self._transport, self._timeout, loop)
        try:
            return await self._courier.send(items)
        except TransportError as error:
            raise PublishFailed(f"the transport cannot be reached: {error}") from error

    # -- the road, on the caller's thread

    def publish_sync(
        self, events: Sequence[object], options: Options, send: Callable[..., Sequence[Append]]
    ) -> list[Envelope]:
        """Publish on this thread; `send` carries items to a transport that needs an event loop."""
        plain = options is NO_OPTIONS and len(events) == 1 and not self._middleware and current.get() is None
        if plain and self._handlers.bare(events[0]):
            item = self._seal_plain(events[0])
            self._append_sync((item,), None, send)
            return [item.envelope]
        publishing, around = self._around(events, options)
        with around:
            outer = outer_of(self, options.within)
            mine = gather(self, outer, options.within)
            sealed = self._seal_all(events, options, publishing, mine.within)
            for event, _ in sealed:
                self._handlers.route(event).refuse_async("bus.publish(...)")
            token = current.set(mine)
            try:
                for event, item in sealed:
                    self._take(mine, event, item)
                    if not self._handlers.bare(event):
                        contexts = self._contexts(item.envelope, mine.within)
                        self._handlers.call_with(event, contexts, "bus.publish(...)")
            finally:
                mine.open = False
                current.reset(token)
            if not joined(outer, mine):
                self._append_sync(mine.items, mine.within, send)
                if self._sent(mine):
                    self.run_after_sync(mine.after)
        return [item.envelope for _, item in sealed]

    def _append_sync(self, items: Sequence[Outgoing], within: Any, send: Callable[..., Sequence[Append]]) -> None:
        if within is not None:
            results = self._append_within(items, within)
        elif self._append_now is not None:
            results = self._append_now(items, self._timeout)
        else:
            results = send(self._send(items))
        self._judge(items, results)

    # -- both

    def _around(
        self, events: Sequence[object], options: Options
    ) -> tuple[Publishing | None, AbstractContextManager[None]]:
        if not self._middleware:
            return None, nullcontext()
        publishing = Publishing(events[0] if len(events) == 1 else tuple(events), dict(options.headers or {}))
        return publishing, entered(self._middleware, publishing)

    def _take(self, mine: Gathering, event: object, item: Outgoing) -> None:
        mine.items.append(item)
        if self._handlers.route(event).after:
            mine.after.append((event, item.envelope))

    def _sent(self, mine: Gathering) -> bool:
        """Whether after-commit handlers may run now; in a transaction they wait for its commit."""
        pending = self._pending(mine.within)
        if pending is not None:
            for event, envelope in mine.after:
                pending.follow(event, envelope)
        return mine.within is None

    def _pending(self, within: Any) -> Pending | None:
        """What waits for the commit of a transaction, where that is known to us."""
        return within.pending if isinstance(within, Transaction) else self.followers.joined.get(id(within))

    def _surviving(self, connection: Any, ids: Sequence[bytes]) -> set[bytes]:
        transport = self._transport
        return set(transport.surviving(connection, ids)) if isinstance(transport, Enlisting) else set(ids)

    async def run_after(self, after: Sequence[After]) -> None:
        """Run the after-commit handlers of events that are stored."""
        for event, envelope in after:
            await self._handlers.after(event, self._contexts(envelope, None))

    def run_after_sync(self, after: Sequence[After]) -> None:
        """As `run_after`, on this thread."""
        for event, envelope in after:
            self._handlers.after_sync(event, self._contexts(envelope, None))

    def _contexts(self, envelope: Envelope, within: Any) -> Callable[[], Context]:
        return lambda: Context(envelope, within, self._bus)

    def contexts_of(self, event: object, within: Any) -> Callable[[], Context]:
        """Contexts for handlers of an event that is not published: sealed only if one asks."""
        return lambda: Context(self._seal_plain(event).envelope, within, self._bus)

    def _append_within(self, items: Sequence[Outgoing], within: Any) -> Sequence[Append]:
        connection, transport = connection_of(within), self._transport
        if not isinstance(transport, Enlisting) or not transport.enlists(connection):
            raise ConfigError(
                f"{transport.traits.name}:// cannot publish within a {type(connection).__qualname__}: its tables are "
                f"not in that database"
            )
        return transport.append_within(connection, items)

    def _judge(self, items: Sequence[Outgoing], results: Sequence[Append]) -> None:
        """Count what became of a batch, and raise if not all of it is stored."""
        errors = [self._count(item, result) for item, result in zip(items, results, strict=True)]
        failures = [error for error in errors if error is not None]
        if not failures:
            return
        failed = next((error for error in failures if isinstance(error, PublishUnknown)), failures[0])
        if len(errors) == 1:
            raise failed
        stored = errors.count(None)
        text = f"{stored} of {len(errors)} events were stored; the first error: {failed}"
        kind = PublishUnknown if isinstance(failed, PublishUnknown) else PublishFailed
        raise kind(text, errors) from failed

    def _count(self, item: Outgoing, result: Append) -> PostbusError | None:
        """Count one result; return why its event is not stored, if it is not."""
        match result:
            case Stored(routes):
                self._counters.published += 1
                if routes == 0:
                    self._counters.unrouted += 1
                for observe in self.observers:
                    observe(Published(item.envelope, routes))
                return None
            case Duplicate():
                self._counters.duplicates += 1
                return None
            case Refused(error):
                self._counters.refused += 1
                return error
            case Unknown(error):
                self._counters.unknown += 1
                return error

    # -- sealing

    def _seal_plain(self, event: object) -> Outgoing:
        try:
            envelope = self._seal(event, micros=time_ns() // 1000 if self._system else int(self._now() * 1e6))
        except PostbusError:
            self._counters.refused += 1
            raise
        return Outgoing(envelope, event if self._objects else None, 0.0, self._require)

    def _seal_all(
        self, events: Sequence[object], options: Options, publishing: Publishing | None, within: Any
    ) -> list[tuple[object, Outgoing]]:
        try:
            return self._sealed(events, options, publishing, within)
        except PostbusError:
            self._counters.refused += len(events)
            raise

    def _sealed(
        self, events: Sequence[object], options: Options, publishing: Publishing | None, within: Any
    ) -> list[tuple[object, Outgoing]]:
        """Seal them all before anything else happens, so that a bad one fails without side effects."""
        if options.id is not None and len(events) > 1:
            raise ConfigError("id= names one event: publish several without it, or one by one")
        now = self._now()
        delay = self._delay(options, now)
        expires = self._expires(options, now)
        headers = checked_headers(options.headers if publishing is None else publishing.headers)
        event_id = options.id
        if event_id is not None and not isinstance(event_id, UUID):
            raise ConfigError(f"id={event_id!r}: expected a uuid.UUID")
        key = key_text(options.key)
        micros = int(now * 1e6)
        sealed: list[tuple[object, Outgoing]] = []
        for event in events:
            envelope = self._catalog.seal(
                event, key=key, id=event_id, headers=headers, micros=micros, expires_micros=expires
            )
            carried = event if self._objects else None
            sealed.append((event, Outgoing(envelope, carried, delay, self._require)))
        self._check_within(sealed, within)
        return sealed

    def _check_within(self, sealed: Sequence[tuple[object, Outgoing]], within: Any) -> None:
        if isinstance(within, Transaction):
            within.refuse_ended()
        if within is None or self._pending(within) is not None:
            return
        for event, item in sealed:
            if after := self._handlers.route(event).after:
                raise ConfigError(
                    f"{after[0].label} runs after the commit of {item.envelope.name}, and a raw "
                    f"{type(within).__qualname__} does not say when that is: use `with bus.transaction(conn) as tx` "
                    f"and publish(..., within=tx)"
                )

    def _delay(self, options: Options, now: float) -> float:
        if options.at is None:
            return 0.0 if options.delay is None else seconds(options.delay, "delay")
        if options.delay is not None:
            raise ConfigError("publish() takes delay= or at=, not both")
        return max(0.0, _instant(options.at, "at") - now)

    def _expires(self, options: Options, now: float) -> int | None:
        expires = options.expires
        if expires is None:
            return None
        at = _instant(expires, "expires") if isinstance(expires, datetime) else now + seconds(expires, "expires")
        return int(at * 1e6)


def _instant(at: datetime, what: str) -> float:
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise ConfigError(
            f"{what}={at!r}: expected an aware datetime, such as datetime.now(UTC) + {timedelta(hours=1)!r}"
        )
    return at.timestamp()
