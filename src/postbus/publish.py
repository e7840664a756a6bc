"""The first half of the road: seal, run the handlers, append.  One way for sync and async, nested and transactional."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import time_ns
from typing import Any
from uuid import UUID

from .catalog import Catalog
from .clock import Clock, SystemClock
from .context import Context, Publishes
from .courier import Courier
from .envelope import Envelope, checked_headers
from .errors import ConfigError, PostbusError, PublishFailed, PublishUnknown, TransportError, TransportFull
from .event import RawEvent, key_text
from .gathering import Gathering, current, gather, joined, outer_of
from .joining import Joining
from .local import Handlers, Route
from .middleware import AroundPublish, Publishing, entered
from .observe import Counters, Fact, Published
from .options import Options
from .tally import PublishTally, Tally, counted_alike
from .transaction import After
from .transport import Append, Direct, Duplicate, Immediate, Outgoing, Refused, Stored, Transport, Unknown

__all__ = ["Publisher"]

# Where nobody adds up.
_NOWHERE = PublishTally()


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
        relayed: bool = False,
    ) -> None:
        """Make it; `relayed`: its transport is an outbox, which takes everything and knows no subscriptions."""
        self._bus = bus
        self._relayed = relayed
        self._catalog = catalog
        self._handlers = handlers
        self._counters = counters
        self._now = clock.time
        self._system = isinstance(clock, SystemClock)  # whose time needs no detour through a float
        self._seal = catalog.seal
        # Class to what publishes its events on the spot; a snapshot of what is declared.
        self.spots: dict[type[Any], Callable[[object], Envelope | None]] = {}
        self._tally: Tally | None = None
        self._objects = catalog.objects
        self._middleware = tuple(middleware)
        self._timeout = timeout
        self._require = require_subscription or relayed
        self._courier: Courier | None = None
        self._joining = Joining(self.run_after, self.run_after_sync)
        self.followers = self._joining.followers
        self._observers: tuple[Callable[[Fact], None], ...] = ()

    def bind(self, transport: Transport) -> None:
        """Publish to this transport from now on: at first, and again after a fork."""
        self._transport = transport
        self._joining.bind(transport)
        self._courier = None
        immediate = transport if isinstance(transport, Immediate) else None
        self._append_now = None if immediate is None else immediate.append_now
        # A transport that gains nothing from batches is called on the spot: no task, no future, no turn of the loop.
        self._direct = None if transport.traits.coalesce else self._append_now
        self._append_one = transport.append_one if isinstance(transport, Direct) else None
        self.spots.clear()

    def add_up(self, tally: Tally) -> None:
        """Add up by name what is published, from now on."""
        if self._tally is not tally:
            self._tally = tally
            self.spots.clear()

    # -- the road, asynchronous

    def changed(self) -> None:
        """What is declared changed: an event that nobody handled in-process may be handled now."""
        self.spots.clear()

    def show(self, observers: tuple[Callable[[Fact], None], ...]) -> None:
        """Tell these of every publish, from now on."""
        self._observers = observers
        self.spots.clear()

    def _make_spot(self, event_type: type[Any]) -> None:
        """See to it that further events of this class, which nobody handles in-process, need no look at anything."""
        by_hand = self._middleware or self._observers or not self._system
        if self._append_one is None or event_type is RawEvent or by_hand:
            return
        seal, objects = self._catalog.sealer(event_type), self._objects
        append, counters, require = self._append_one, self._counters, self._require
        entry = self._catalog.entry_of(event_type)
        tally = PublishTally() if self._tally is None else self._tally.publish(entry.name, entry.topic)

        def spot(event: object) -> Envelope | None:
            if current.get() is not None:  # inside a handler: it joins the outermost publish
                return None
            try:
                envelope = seal(event, time_ns() // 1000)
            except PostbusError:
                counters.refused += 1
                raise
            result = append(Outgoing(envelope, event if objects else None, 0.0, require))
            if type(result) is Stored and result.routes:
                counters.published += 1
                tally.stored += 1
                return envelope
            if result is None or type(result) is Refused:  # the long way waits for room, or raises
                return None
            self._judge((Outgoing(envelope, event),), (result,))
            return envelope

        self.spots[event_type] = spot

    async def publish(self, event: object, options: Options) -> Envelope:
        """Publish one event; see `Bus.publish`."""
        if options.plain and not self._middleware and current.get() is None and self._handlers.bare(event):
            item = self._seal_plain(event)
            if options.within is None:
                await self._append((item,))
                self._make_spot(type(event))
            else:
                joining = self._joining
                (result,) = await joining.append(joining.join(options.within, blocking=False), (item,), ())
                self._judge_one(item, result)
            return item.envelope
        return (await self.publish_many((event,), options))[0]

    async def publish_many(self, events: Sequence[object], options: Options) -> list[Envelope]:
        """Publish several events as one batch."""
        publishing, around = self._around(events, options)
        with around:
            outer = outer_of(self, options.within)
            mine = gather(self, outer, options.within)
            sealed = self._seal_all(events, options, publishing)
            handled = self._joins(mine, sealed, blocking=False)
            if handled and mine.joined is not None:
                await mine.joined.enter_async()
            token = current.set(mine)
            try:
                for event, item in sealed:
                    if not self._take(mine, event, item).bare:
                        await self._handlers.call(event, self._contexts(item.envelope, mine.within))
            finally:
                mine.open = False
                current.reset(token)
            if joined(outer, mine):
                pass
            elif mine.joined is not None:
                self._judge(mine.items, await self._joining.append(mine.joined, mine.items, mine.after))
            else:
                await self._append(mine.items)
                await self.run_after(mine.after)
        return [item.envelope for _, item in sealed]

    async def _append(self, items: Sequence[Outgoing]) -> None:
        if self._direct is None:
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
        began = time.monotonic()
        try:
            results = await self._courier.send(items)
        except TransportError as error:
            raise PublishFailed(f"the transport cannot be reached: {error}") from error
        if self._tally is not None:
            self._tally.waited(items[0].envelope.topic, time.monotonic() - began)
        return results

    # -- the road, on the caller's thread

    def publish_sync(
        self, events: Sequence[object], options: Options, send: Callable[..., Sequence[Append]]
    ) -> list[Envelope]:
        """Publish on this thread; `send` carries items to a transport that needs an event loop."""
        alone = len(events) == 1 and not self._middleware and current.get() is None
        if alone and options.plain and self._handlers.bare(events[0]):
            item = self._seal_plain(events[0])
            if options.within is None:
                self._append_sync((item,), send)
            else:
                (result,) = self._joining.append_alone_sync(options.within, item)
                self._judge_one(item, result)
            return [item.envelope]
        publishing, around = self._around(events, options)
        with around:
            outer = outer_of(self, options.within)
            mine = gather(self, outer, options.within)
            sealed = self._seal_all(events, options, publishing)
            for event, _ in sealed:
                self._handlers.route(event).refuse_async("bus.publish(...)")
            if self._joins(mine, sealed, blocking=True) and mine.joined is not None:
                mine.joined.enter()
            token = current.set(mine)
            try:
                for event, item in sealed:
                    if not self._take(mine, event, item).bare:
                        contexts = self._contexts(item.envelope, mine.within)
                        self._handlers.call_with(event, contexts, "bus.publish(...)")
            finally:
                mine.open = False
                current.reset(token)
            if joined(outer, mine):
                pass
            elif mine.joined is not None:
                self._judge(mine.items, self._joining.append_sync(mine.joined, mine.items, mine.after))
            else:
                self._append_sync(mine.items, send)
                self.run_after_sync(mine.after)
        return [item.envelope for _, item in sealed]

    def _append_sync(self, items: Sequence[Outgoing], send: Callable[..., Sequence[Append]]) -> None:
        results = self._append_now(items, self._timeout) if self._append_now is not None else send(self._send(items))
        self._judge(items, results)

    # -- both

    def _around(
        self, events: Sequence[object], options: Options
    ) -> tuple[Publishing | None, AbstractContextManager[None]]:
        if not self._middleware:
            return None, nullcontext()
        one = len(events) == 1
        what = events[0] if one else tuple(events)
        publishing = Publishing(what, dict(options.headers or {}), () if one else tuple({} for _ in events))
        return publishing, entered(self._middleware, publishing)

    def _take(self, mine: Gathering, event: object, item: Outgoing) -> Route:
        mine.items.append(item)
        route = self._handlers.route(event)
        if route.after:
            mine.after.append((event, item.envelope))
        return route

    def _joins(self, mine: Gathering, sealed: Sequence[tuple[object, Outgoing]], *, blocking: bool) -> bool:
        """Find the transaction that all of it happens in, if any; whether there are handlers to run in it."""
        if mine.within is None:
            return False
        if mine.joined is None:
            mine.joined = self._joining.join(mine.within, blocking=blocking)
        routes = [self._handlers.route(event) for event, _ in sealed]
        mine.joined.refuse_unheard(routes)
        return any(route.before for route in routes)

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

    def _judge(self, items: Sequence[Outgoing], results: Sequence[Append]) -> None:
        """Count what became of a batch, and raise if not all of it is stored."""
        if not self._observers and counted_alike(items, results, self._counters, self._tally):
            return
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

    def _judge_one(self, item: Outgoing, result: Append) -> None:
        error = self._count(item, result)
        if error is not None:
            raise error

    def _count(self, item: Outgoing, result: Append) -> PostbusError | None:
        """Count one result; return why its event is not stored, if it is not."""
        tally = _NOWHERE if self._tally is None else self._tally.publish(item.envelope.name, item.envelope.topic)
        match result:
            case Stored(routes):
                self._counters.published += 1
                tally.stored += 1
                if routes == 0:
                    self._counters.unrouted += 1
                    tally.unrouted += 1
                for observe in self._observers:
                    observe(Published(item.envelope, None if self._relayed else routes))
                return None
            case Duplicate():
                self._counters.duplicates += 1
                tally.duplicates += 1
                return None
            case Refused(error):
                self._counters.refused += 1
                tally.refused += 1
                return error
            case Unknown(error):
                self._counters.unknown += 1
                tally.unknown += 1
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
        self, events: Sequence[object], options: Options, publishing: Publishing | None
    ) -> list[tuple[object, Outgoing]]:
        try:
            return self._sealed(events, options, publishing)
        except PostbusError:
            self._counters.refused += len(events)
            raise

    def _sealed(
        self, events: Sequence[object], options: Options, publishing: Publishing | None
    ) -> list[tuple[object, Outgoing]]:
        """Seal them all before anything else happens, so that a bad one fails without side effects."""
        if options.id is not None and len(events) > 1:
            raise ConfigError("id= names one event: publish several without it, or one by one")
        now = self._now()
        delay = options.delay_from(now)
        expires = options.expires_from(now)
        headers = checked_headers(options.headers if publishing is None else publishing.headers)
        event_id = options.id
        if event_id is not None and not isinstance(event_id, UUID):
            raise ConfigError(f"id={event_id!r}: expected a uuid.UUID")
        key = key_text(options.key)
        micros = int(now * 1e6)
        sealed: list[tuple[object, Outgoing]] = []
        for place, event in enumerate(events):
            if publishing is not None and publishing.own:
                headers = checked_headers({**publishing.headers, **publishing.own[place]})
            envelope = self._catalog.seal(
                event, key=key, id=event_id, headers=headers, micros=micros, expires_micros=expires
            )
            carried = event if self._objects else None
            sealed.append((event, Outgoing(envelope, carried, delay, self._require)))
        if publishing is not None:
            publishing.envelopes = tuple(item.envelope for _, item in sealed)
        return sealed
