"""Functions around each delivery, each publish, each thread's run.  Composes them; calls nothing by itself."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from .context import DeliveryContext
from .envelope import Envelope
from .errors import ConfigError

__all__ = [
    "AroundDelivery",
    "AroundPublish",
    "AroundThread",
    "DeliveryFunction",
    "Middleware",
    "Next",
    "PublishFunction",
    "Publishing",
    "around_delivery",
    "around_publish",
    "around_thread",
    "called_within",
    "entered",
    "wrapped",
]

T = TypeVar("T")

Next = Callable[[], Awaitable[object]]
DeliveryFunction = Callable[[object, DeliveryContext, Next], Awaitable[object]]


@dataclass(slots=True)
class Publishing:
    """A publish that is about to be sealed; its headers may be added to.

    Attributes:
        event: what is published; a tuple of `publish_many`'s events.
        headers: of every event.
        own: what one event of several has beside those, by its place.
        envelopes: what was sealed; known behind the `yield`.
    """

    event: object
    headers: dict[str, str] = field(default_factory=dict)
    own: tuple[dict[str, str], ...] = ()
    envelopes: tuple[Envelope, ...] = ()

    @property
    def events(self) -> tuple[object, ...]:
        """What is published, one or several."""
        return self.event if isinstance(self.event, tuple) and self.own else (self.event,)


PublishFunction = Callable[[Publishing], Iterator[None]]


@dataclass(frozen=True, slots=True)
class AroundDelivery:
    """Made by `around_delivery`."""

    function: DeliveryFunction


@dataclass(frozen=True, slots=True)
class AroundPublish:
    """Made by `around_publish`."""

    function: Callable[[Publishing], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class AroundThread:
    """Made by `around_thread`."""

    function: Callable[[], AbstractContextManager[None]]


Middleware = AroundDelivery | AroundPublish | AroundThread


def around_delivery(function: DeliveryFunction) -> AroundDelivery:
    """Make middleware of `async def f(event, context, call_next)`.

    It runs around each delivery, in the delivery's own context and time limit, and may publish, time, log, set context
    variables, raise, or not call on.  What it raises counts as what the subscriber raised.

    Raises:
        ConfigError: when it is not `async def`.
    """
    if not inspect.iscoroutinefunction(function):
        raise ConfigError(
            f"@around_delivery needs `async def f(event, context, call_next)`, and was given {function!r}"
        )
    return AroundDelivery(function)


def around_publish(function: PublishFunction) -> AroundPublish:
    """Make middleware of a generator function `def f(publishing): ...; yield; ...`.

    It runs around each publish, sync and async alike, handlers included; what it raises before its `yield` stops it.

    Raises:
        ConfigError: when it is not a generator function.
    """
    if not inspect.isgeneratorfunction(function):
        raise ConfigError(f"@around_publish needs a generator function with one `yield`, and was given {function!r}")
    return AroundPublish(contextmanager(function))


def around_thread(function: Callable[[], Iterator[None]]) -> AroundThread:
    """Make middleware of a generator function `def f(): ...; yield; ...`, run in the thread of each `def` subscriber.

    For what belongs to a thread, and so cannot be done by `around_delivery`, which runs in the event loop: a
    framework's connections, or the context of its application.  A transactional subscriber's transaction is inside.
    What it raises counts as what the subscriber raised.

    Raises:
        ConfigError: when it is not a generator function.
    """
    if not inspect.isgeneratorfunction(function):
        raise ConfigError(f"@around_thread needs a generator function with one `yield`, and was given {function!r}")
    return AroundThread(contextmanager(function))


def called_within(around: Sequence[AroundThread], work: Callable[[], T]) -> T:
    """Return what `work` returns inside all of them, the first outermost."""
    with ExitStack() as stack:
        for one in around:
            stack.enter_context(one.function())
        return work()


@contextmanager
def entered(middleware: Sequence[AroundPublish], publishing: Publishing) -> Iterator[None]:
    """Run the body inside all of them, the first outermost."""
    with ExitStack() as stack:
        for around in middleware:
            stack.enter_context(around.function(publishing))
        yield


def wrapped(
    middleware: Sequence[AroundDelivery], event: object, context: DeliveryContext, last: Next
) -> Awaitable[object]:
    """Call `last` inside all of them, the first outermost."""

    def layer(depth: int) -> Awaitable[object]:
        if depth == len(middleware):
            return last()
        return middleware[depth].function(event, context, lambda: layer(depth + 1))

    return layer(0)
