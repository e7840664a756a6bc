"""In-process handlers: called now, in the order of registration, with errors to the caller.  Never touches a transport.

Two ways to run them: `call` stops at the first error and raises it; `notify` runs them all and raises one group.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .catalog import Catalog
from .context import Context
from .errors import ConfigError, PostbusError
from .event import RawEvent, mark_of
from .observe import Counters, log
from .router import Handler

__all__ = ["Bound", "Contexts", "Convert", "Handlers", "Route"]

Convert = Callable[[Any], Any]
Contexts = Callable[[], Context]


class Bound:
    """A handler as it is called for one kind of event."""

    __slots__ = ("convert", "fn", "is_async", "label", "wants_context")

    def __init__(self, handler: Handler, convert: Convert | None) -> None:
        self.fn = handler.fn
        self.label = handler.label
        self.is_async = handler.signature.is_async
        self.wants_context = handler.signature.wants_context
        self.convert = convert

    def start(self, event: object, contexts: Contexts) -> Any:
        """Call it; what comes back of an `async def` must be awaited."""
        given = event if self.convert is None else self.convert(event)
        return self.fn(given, contexts()) if self.wants_context else self.fn(given)


class Route:
    """What happens in-process to one kind of event.

    Attributes:
        name: the wire name.
        plain: the functions, where nothing but calling them is needed; else None.
        before: handlers that are part of the publish.
        after: after-commit handlers.
        bare: there are neither.
    """

    __slots__ = ("after", "bare", "before", "name", "plain")

    def __init__(self, name: str, before: tuple[Bound, ...], after: tuple[Bound, ...]) -> None:
        self.name = name
        self.before = before
        self.after = after
        self.bare = not before and not after
        simple = all(not (b.is_async or b.wants_context or b.convert) for b in before)
        self.plain = tuple(b.fn for b in before) if simple else None

    def refuse_async(self, instead: str) -> None:
        """Raise before anything ran: a coroutine cannot be awaited by a sync caller."""
        for bound in (*self.before, *self.after):
            if bound.is_async:
                raise ConfigError(
                    f"{bound.label} is `async def` and handles {self.name}, which was published by a sync call: "
                    f"use `await {instead}`, or make the handler a `def`"
                )


class Handlers:
    """The handlers of a bus, routed once for each kind of event.

    A route is an immutable snapshot: registering or removing a handler makes new routes, and never changes one in use.
    """

    def __init__(
        self,
        declared: Callable[[], Sequence[Handler]],
        catalog: Catalog,
        counters: Counters,
        contexts_of: Callable[[object, Any], Contexts],
    ) -> None:
        self._declared = declared
        self._contexts_of = contexts_of
        self._catalog = catalog
        self._counters = counters
        self._routes: dict[type[Any] | str, Route] = {}

    def changed(self) -> None:
        """Forget all routes: what is declared changed."""
        self._routes = {}

    def bare(self, event: object) -> bool:
        """Whether nobody handles it in-process."""
        return (self._routes.get(type(event)) or self.route(event)).bare

    def route(self, event: object) -> Route:
        """Return the route of this event.

        Raises:
            UnknownEvent: when it is not an event.
        """
        what: type[Any] | str = event.name if isinstance(event, RawEvent) else type(event)
        route = self._routes.get(what)
        if route is None:
            routes = self._routes  # a change while this one is made swaps the dictionary: the stale route goes with it
            route = routes[what] = self._make(event)
        return route

    def _make(self, event: object) -> Route:
        if isinstance(event, RawEvent):
            name, topic_type = event.name, None
        else:
            topic_type = type(event)
            name = mark_of(topic_type).name
            self._catalog.add(topic_type)
        before: list[Bound] = []
        after: list[Bound] = []
        for handler in self._declared():
            wanted = handler.interest.type_for(name)
            if wanted is not None:
                (after if handler.after_commit else before).append(Bound(handler, _converter(name, topic_type, wanted)))
        return Route(name, tuple(before), tuple(after))

    # -- one by one, stop at the first error

    def call_sync(self, event: object, within: Any = None) -> None:
        """Run the handlers on this thread."""
        try:
            plain = self._routes[type(event)].plain
        except KeyError:
            plain = self.route(event).plain
        if plain is None or type(event) is RawEvent:
            self.call_with(event, self._contexts_of(event, within), "bus.call(...)")
            return
        fn: Callable[..., Any] | None = None
        try:
            for fn in plain:
                if (result := fn(event)) is not None:
                    _refuse_awaitable(result, fn, "bus.call(...)")
        except (Exception, SystemExit) as error:
            _explain(error, self.route(event), fn)

    def call_with(self, event: object, contexts: Contexts, instead: str) -> None:
        """Run the handlers on this thread, with these contexts; `instead` is what an async handler asks for."""
        route = self.route(event)
        route.refuse_async(instead)
        for bound in route.before:
            try:
                _refuse_awaitable(bound.start(event, contexts), bound.fn, instead)
            except (Exception, SystemExit) as error:
                _explain(error, route, bound.fn)

    async def call(self, event: object, contexts: Contexts) -> None:
        """Run the handlers on this event loop, awaiting those that are `async def`."""
        route = self.route(event)
        for bound in route.before:
            try:
                result = bound.start(event, contexts)
                if result is not None and (bound.is_async or inspect.isawaitable(result)):
                    await result
            except (Exception, SystemExit) as error:
                _explain(error, route, bound.fn)

    # -- all of them, errors joined

    def notify_sync(self, event: object, contexts: Contexts) -> None:
        """Run all handlers on this thread, then raise what failed."""
        route = self.route(event)
        route.refuse_async("bus.notify(...)")
        failures: list[Exception] = []
        for bound in route.before:
            try:
                _refuse_awaitable(bound.start(event, contexts), bound.fn, "bus.notify(...)")
            except (Exception, SystemExit) as error:
                failures.append(_explained(error, route, bound.fn))
        _raise_group(route, failures)

    async def notify(self, event: object, contexts: Contexts) -> None:
        """Run all handlers, one after the other, then raise what failed."""
        route = self.route(event)
        failures: list[Exception] = []
        for bound in route.before:
            try:
                result = bound.start(event, contexts)
                if inspect.isawaitable(result):
                    await result
            except (Exception, SystemExit) as error:
                failures.append(_explained(error, route, bound.fn))
        _raise_group(route, failures)

    # -- after the commit: no caller to raise to

    def after_sync(self, event: object, contexts: Contexts) -> None:
        """Run after-commit handlers; what they raise is logged and counted."""
        route = self.route(event)
        for bound in route.after:
            try:
                _refuse_awaitable(bound.start(event, contexts), bound.fn, "bus.publish(...)")
            except (Exception, SystemExit) as error:
                self._after_failed(error, route, bound)

    async def after(self, event: object, contexts: Contexts) -> None:
        """Run after-commit handlers; what they raise is logged and counted."""
        route = self.route(event)
        for bound in route.after:
            try:
                result = bound.start(event, contexts)
                if inspect.isawaitable(result):
                    await result
            except (Exception, SystemExit) as error:
                self._after_failed(error, route, bound)

    def _after_failed(self, error: BaseException, route: Route, bound: Bound) -> None:
        self._counters.after_commit_errors += 1
        log.error("after-commit handler %s of %s failed; the event is stored", bound.label, route.name, exc_info=error)


def _converter(name: str, event_type: type[Any] | None, wanted: type[Any]) -> Convert | None:
    """How an event of one kind is given to a handler that asks for another; None where it is passed as it is."""
    if event_type is None:
        return None if wanted is RawEvent else lambda raw: raw.decode(wanted)
    if issubclass(event_type, wanted):
        return None
    if wanted is RawEvent:
        return lambda event: RawEvent(name, event)
    return lambda event: RawEvent(name, event).decode(wanted)


def _refuse_awaitable(result: object, fn: Callable[..., Any] | None, instead: str) -> None:
    """A `def` that returned a coroutine would have run nothing at all, in silence."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        name = getattr(fn, "__qualname__", repr(fn))
        raise ConfigError(f"{name} returned an awaitable to a sync call: use `await {instead}` instead")


def _explained(error: BaseException, route: Route, fn: Callable[..., Any] | None) -> Exception:
    label = f"{getattr(fn, '__module__', '?')}:{getattr(fn, '__qualname__', fn)}"
    if not isinstance(error, Exception):  # SystemExit: a handler does not end the process
        stopped = PostbusError(f"{label} raised {error!r} while it handled {route.name}")
        stopped.__cause__ = error
        return stopped
    error.add_note(f"while {label} handled {route.name}")
    return error


def _explain(error: BaseException, route: Route, fn: Callable[..., Any] | None) -> NoReturn:
    explained = _explained(error, route, fn)
    if explained is error:
        raise error
    raise explained from error


def _raise_group(route: Route, failures: list[Exception]) -> None:
    if failures:
        raise ExceptionGroup(f"{len(failures)} handlers of {route.name} failed", failures)
