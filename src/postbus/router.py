"""Where handlers and subscribers are declared.  A bus is a router too, so that modules can register without it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack, overload

from .clock import Span
from .context import Context, DeliveryContext
from .errors import ConfigError
from .event import RawEvent
from .retry import Retry
from .signature import Signature, label_of, read_signature
from .subscription import Interest, Subscriber, What, read_interest, read_subscriber

__all__ = ["Handle", "Handler", "HandlerDecorator", "Router", "SubscriberDecorator", "SubscriberOptions"]

T = TypeVar("T")
E1 = TypeVar("E1")
E2 = TypeVar("E2")
E3 = TypeVar("E3")
E4 = TypeVar("E4")
E = TypeVar("E")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])

# One counter for the program, so that handlers of several routers run in the order they were registered.
_order = itertools.count()


class HandlerDecorator(Protocol[E]):
    """Takes a function of the event, or of the event and a `Context`; returns it unchanged."""

    @overload
    def __call__(self, fn: Callable[[E], R], /) -> Callable[[E], R]: ...
    @overload
    def __call__(self, fn: Callable[[E, Context], R], /) -> Callable[[E, Context], R]: ...


class SubscriberDecorator(Protocol[E]):
    """Takes a function of the event, or of the event and a `DeliveryContext`; returns it unchanged.

    That of a transactional subscriber may take its transaction last.
    """

    @overload
    def __call__(self, fn: Callable[[E], R], /) -> Callable[[E], R]: ...
    @overload
    def __call__(self, fn: Callable[[E, DeliveryContext], R], /) -> Callable[[E, DeliveryContext], R]: ...
    @overload
    def __call__(self, fn: Callable[[E, T], R], /) -> Callable[[E, T], R]: ...
    @overload
    def __call__(self, fn: Callable[[E, DeliveryContext, T], R], /) -> Callable[[E, DeliveryContext, T], R]: ...


class SubscriberOptions(TypedDict, total=False):
    """The options of `subscriber`; see there."""

    name: str | None
    was: str | None
    topic: str | None
    retry: Retry | None
    timeout: Span
    concurrency: int
    prefetch: int | None
    ordered: bool
    on_bury: Literal["continue", "park"]
    transactional: bool
    start: Literal["new", "earliest"]
    isolation: Literal["thread", "process"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Handler:
    """An in-process handler as declared.  Compared by identity: two closures of one literal are two handlers."""

    order: int
    fn: Callable[..., Any]
    signature: Signature
    interest: Interest
    after_commit: bool

    @property
    def label(self) -> str:
        """Where its code is."""
        return label_of(self.fn)


class Handle:
    """One registration, and the way to end it."""

    __slots__ = ("_remove", "name")

    def __init__(self, name: str, remove: Callable[[], None]) -> None:
        self.name = name
        self._remove = remove

    def remove(self) -> None:
        """End the registration.  Events being dispatched still reach it; idempotent.

        A subscriber's durable subscription stays: what was stored for it waits.  `bus.subscriptions.retire` ends that.
        """
        self._remove()

    def __repr__(self) -> str:
        return f"Handle({self.name!r})"


class Router:
    """Declarations of handlers and subscribers; `bus.include(router)` makes them the bus's.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._handlers: tuple[Handler, ...] = ()
        self._subscribers: tuple[Subscriber, ...] = ()
        self._upcasters: tuple[tuple[str, int, Callable[[dict[str, Any]], dict[str, Any]]], ...] = ()
        self._included: tuple[Router, ...] = ()
        self._parents: tuple[Router, ...] = ()

    # -- handlers

    @overload
    def on(self, what: type[E1], /, *, after_commit: bool = False) -> HandlerDecorator[E1]: ...
    @overload
    def on(self, one: type[E1], two: type[E2], /, *, after_commit: bool = False) -> HandlerDecorator[E1 | E2]: ...
    @overload
    def on(
        self, one: type[E1], two: type[E2], three: type[E3], /, *, after_commit: bool = False
    ) -> HandlerDecorator[E1 | E2 | E3]: ...
    @overload
    def on(
        self, one: type[E1], two: type[E2], three: type[E3], four: type[E4], /, *, after_commit: bool = False
    ) -> HandlerDecorator[E1 | E2 | E3 | E4]: ...
    @overload
    def on(self, *what: str, after_commit: bool = False) -> Callable[[F], F]: ...
    @overload
    def on(self, fn: F, /) -> F: ...
    def on(self, *what: Any, after_commit: bool = False) -> Any:
        """Register an in-process handler, run as part of `publish()`, `call()` and `notify()`.

        `what` are event classes, names or patterns; without any, the first parameter's annotation says it.
        With `after_commit=True` it runs after the event is stored (with `within=`: after the commit; never after a
        rollback), and its errors are logged and counted instead of reaching the publisher.

        Raises:
            ConfigError: when the function or what it takes is not usable.
        """
        if len(what) == 1 and not isinstance(what[0], type | str) and callable(what[0]):
            self.add_handler(what[0], after_commit=after_commit)
            return what[0]

        def register(fn: F) -> F:
            self.add_handler(fn, *what, after_commit=after_commit)
            return fn

        return register

    def add_handler(self, fn: Callable[..., Any], *what: What, after_commit: bool = False) -> Handle:
        """As `on`, and return a handle whose `remove()` ends exactly this registration."""
        signature = read_signature(fn, delivered=False)
        interest = read_interest(what, signature, label_of(fn))
        handler = Handler(
            order=next(_order), fn=fn, signature=signature, interest=interest, after_commit=bool(after_commit)
        )
        with self._lock:
            self._check_types(interest)
            self._handlers = (*self._handlers, handler)
        self._changed()

        def remove() -> None:
            with self._lock:
                self._handlers = tuple(h for h in self._handlers if h is not handler)
            self._changed()

        return Handle(handler.label, remove)

    # -- subscribers

    @overload
    def subscriber(self, what: type[E1], /, **options: Unpack[SubscriberOptions]) -> SubscriberDecorator[E1]: ...
    @overload
    def subscriber(
        self, one: type[E1], two: type[E2], /, **options: Unpack[SubscriberOptions]
    ) -> SubscriberDecorator[E1 | E2]: ...
    @overload
    def subscriber(
        self, one: type[E1], two: type[E2], three: type[E3], /, **options: Unpack[SubscriberOptions]
    ) -> SubscriberDecorator[E1 | E2 | E3]: ...
    @overload
    def subscriber(
        self, one: type[E1], two: type[E2], three: type[E3], four: type[E4], /, **options: Unpack[SubscriberOptions]
    ) -> SubscriberDecorator[E1 | E2 | E3 | E4]: ...
    @overload
    def subscriber(self, *what: str, **options: Unpack[SubscriberOptions]) -> Callable[[F], F]: ...
    @overload
    def subscriber(self, fn: F, /) -> F: ...
    def subscriber(self, *what: Any, **options: Unpack[SubscriberOptions]) -> Any:
        """Register a background subscriber, run by workers.

        Args:
            what: event classes, names or patterns; without any, the first parameter's annotation says it.
            name: the durable identity, unique in the bus; default the function's own name.
            was: the name it had before; what is stored under that one is carried over.
            topic: only events of this topic.
            retry: what becomes of a failed attempt; default `Retry()`.
            timeout: seconds one attempt may take.
            concurrency: how many run at once, in each worker.
            prefetch: how many more a worker may hold ready; default as many as it works off in a tenth of a second.
            ordered: deliveries of one (topic, key) run one at a time, in the order they were appended.
            on_bury: what a burial does to its key when ordered: 'continue', or 'park' until the replay.
            transactional: run inside a database transaction that also holds the done mark.
            start: 'new' receives what is published from now on, 'earliest' also what is stored.
            isolation: 'thread' runs `def` subscribers in a thread, 'process' any subscriber in a child process.

        Raises:
            ConfigError: when the function, what it takes, or an option is not usable.
        """
        if len(what) == 1 and not isinstance(what[0], type | str) and callable(what[0]):
            self.add_subscriber(what[0], **options)
            return what[0]

        def register(fn: F) -> F:
            self.add_subscriber(fn, *what, **options)
            return fn

        return register

    def add_subscriber(self, fn: Callable[..., Any], *what: What, **options: Unpack[SubscriberOptions]) -> Handle:
        """As `subscriber`, and return a handle whose `remove()` ends exactly this registration."""
        subscriber = read_subscriber(fn, what, **options)
        with self._lock:
            self._check_types(subscriber.interest)
            self._check_name(subscriber)
            self._subscribers = (*self._subscribers, subscriber)
        self._changed()

        def remove() -> None:
            with self._lock:
                self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)
            self._changed()

        return Handle(subscriber.name, remove)

    # -- versions

    def upcaster(self, what: What, *, from_version: int) -> Callable[[F], F]:
        """Register `def f(data: dict) -> dict` that lifts an event's plain data from `from_version` to the next one.

        Raises:
            ConfigError: when there is one for that version already, or `from_version` is no whole number from 1.
        """
        name = what if isinstance(what, str) else read_interest((what,), _NO_SIGNATURE, "upcaster").wants[0]
        if not isinstance(from_version, int) or from_version < 1:
            raise ConfigError(
                f"an upcaster of {name!r} has from_version={from_version!r}: expected a whole number from 1"
            )

        def register(fn: F) -> F:
            with self._lock:
                if any((n, v) == (name, from_version) for n, v, _ in self._all_upcasters()):
                    raise ConfigError(f"{name!r} has an upcaster from version {from_version} already: {label_of(fn)}")
                self._upcasters = (*self._upcasters, (name, from_version, fn))
            self._changed()
            return fn

        return register

    # -- routers

    def include(self, router: Router) -> None:
        """Take over what `router` declares, now and later.

        Raises:
            ConfigError: when a name is taken, or the routers would include each other in a circle.
        """
        if not isinstance(router, Router):
            raise ConfigError(f"include() takes a Router, and was given {router!r}")
        if router is self or self in router._everything():
            raise ConfigError("a router cannot include itself")
        with self._lock:
            if router in self._included:
                return
            for handler in router._all_handlers():
                self._check_types(handler.interest)
            for subscriber in router._all_subscribers():
                self._check_types(subscriber.interest)
                self._check_name(subscriber)
            self._included = (*self._included, router)
        with router._lock:
            router._parents = (*router._parents, self)
        self._changed()

    # -- for the bus

    def _everything(self) -> Iterator[Router]:
        yield self
        for router in self._included:
            yield from router._everything()

    def _all_handlers(self) -> list[Handler]:
        return sorted((h for router in self._everything() for h in router._handlers), key=lambda h: h.order)

    def _all_subscribers(self) -> list[Subscriber]:
        return [s for router in self._everything() for s in router._subscribers]

    def _all_upcasters(self) -> list[tuple[str, int, Callable[[dict[str, Any]], dict[str, Any]]]]:
        return [u for router in self._everything() for u in router._upcasters]

    def _check_name(self, new: Subscriber) -> None:
        for parent in self._parents:
            parent._check_name(new)
        for known in self._all_subscribers():
            if known.name == new.name:
                raise ConfigError(
                    f"two subscribers are named {new.name!r}: {known.label} and {new.label}; a name is the durable "
                    f"identity, so give one of them another with name='...'"
                )

    def _check_types(self, interest: Interest) -> None:
        """Two classes with one wire name would decode each other's events."""
        for parent in self._parents:
            parent._check_types(interest)
        declared: list[Handler | Subscriber] = [*self._all_handlers(), *self._all_subscribers()]
        for known in declared:
            for name, event_type in interest.types.items():
                other = known.interest.types.get(name, event_type)
                if other is not event_type:
                    raise ConfigError(
                        f"{event_type.__qualname__} and {other.__qualname__} are both named {name!r}: give one of "
                        f"them another name in @event"
                    )

    def _changed(self) -> None:
        for parent in self._parents:
            parent._changed()


_NO_SIGNATURE = Signature(is_async=False, wants_context=False, event_types=(RawEvent,))
