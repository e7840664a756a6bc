"""One delivery in, one outcome out.  Catches whatever a subscriber raises; never touches a transport."""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from .catalog import Catalog
from .clock import Clock
from .context import DeliveryContext, Publishes
from .delivery import Ack, Bury, Delivery, Failure, Outcome, Release, Requeue
from .envelope import OBJECT
from .errors import CodecError, LeaseLost, TooLarge, UnknownEvent
from .event import RawEvent
from .failure import Redact, describe, one_line, redacted
from .middleware import AroundDelivery, AroundThread, Middleware, called_within, wrapped
from .observe import log
from .subscription import Subscriber
from .threads import Threads

__all__ = ["ACK", "RELEASE", "AlreadyDone", "Dispatch", "Done", "NotBegun", "Run", "Transactions"]


class Done(msgspec.Struct, frozen=True):
    """What a transactional run leaves: its delivery was settled in the transaction that holds its effects."""


ACK: Final = Ack()
RELEASE: Final = Release()
DONE: Final = Done()


class AlreadyDone(Exception):
    """The effects of this delivery were committed before; nothing is left to do."""


class NotBegun(Exception):
    """The subscriber was not run, for there was no transaction to be had: the event has no part in that."""


class Transactions(Protocol):
    """Where a transactional subscriber gets its transaction; see `inbox` and `given`.

    Entering marks the delivery as done, leaving without an error commits that together with what the body wrote.

    Raises on entering:
        AlreadyDone: when it was done before.
        NotBegun: when the database is away, or another run of the same is under way there.
        LeaseLost: when the delivery is no longer this worker's; on leaving too.
    """

    @property
    def settles(self) -> bool:
        """Whether the delivery is settled by that commit, and not to be settled again."""
        ...

    async def prepare(self, subscription: str) -> None:
        """Called before each run."""
        ...

    def conflicted(self, error: BaseException) -> bool:
        """Whether the transaction failed for meeting another one, so that the same may well succeed now."""
        ...

    def inside(self, delivery: Delivery) -> AbstractContextManager[Any]:
        """For a subscriber in a thread."""
        ...

    def inside_async(self, delivery: Delivery) -> AbstractAsyncContextManager[Any]:
        """For a subscriber in the event loop."""
        ...


# An unknown event is offered again this often, until `unknown_after` has passed.
_UNKNOWN_WAIT = 5.0
_UNKNOWN_KNOWN = 10_000
# One that found no transaction is offered again after this, and up to twice as long: no attempt is spent.
_UNBEGUN_WAIT = 1.0
# Seconds between two warnings of that, however many deliveries meet it.
_UNBEGUN_TOLD = 10.0
# What a first step gives when it was the last.
_ENDED = object()


class Run:
    """One run of a subscriber, as the worker and the dispatch both see it.  Used again for the next one.

    Attributes:
        delivery: what is run; None between runs.
        deadline: when its time is up, on the monotonic clock.
        cause: why it was cancelled, if it was: "timeout", "shutdown", or "closed" with the loop.
        thread: the future of its thread, if it runs in one.
        coroutine, inside, waiting: between `start` and `finish`: what runs, in which context, and what it waits for.
    """

    __slots__ = ("cause", "coroutine", "deadline", "delivery", "inside", "thread", "waiting")

    def __init__(self) -> None:
        self.delivery: Delivery | None = None
        self.deadline = 0.0
        self.cause: str | None = None
        self.thread: asyncio.Future[Any] | None = None
        self.coroutine: Coroutine[Any, Any, object] | None = None
        self.inside: Context | None = None
        self.waiting: Any = None


class Dispatch:
    """Runs one subscriber's deliveries."""

    def __init__(
        self,
        subscriber: Subscriber,
        *,
        catalog: Catalog,
        bus: Publishes,
        middleware: Sequence[Middleware],
        clock: Clock,
        luck: Callable[[], float],
        threads: Threads,
        unknown_after: float,
        redact: Redact = redacted,
        transactions: Transactions | None = None,
    ) -> None:
        self.subscriber = subscriber
        self._fn = subscriber.fn
        self._in_loop = subscriber.signature.is_async
        self._wants_context = subscriber.signature.wants_context
        self._attempts = subscriber.retry.attempts
        self._catalog = catalog
        self._bus = bus
        self._around = tuple(m for m in middleware if isinstance(m, AroundDelivery))
        self._around_thread = tuple(m for m in middleware if isinstance(m, AroundThread))
        self._clock = clock
        self._luck = luck
        self._threads = threads
        self._unknown_after = unknown_after
        self._redact = redact
        self._first_seen: dict[bytes, float] = {}
        # Classes whose objects reach the subscriber as they are, where the transport passes objects.
        self._passed = frozenset(subscriber.interest.types.values())
        self._transactions = transactions if subscriber.transactional else None
        self._told = float("-inf")
        self._succeeded: Outcome | Done = ACK if self._transactions is None else DONE
        self._simple = self._in_loop and not (self._wants_context or self._around or self._transactions)

    def start(self, run: Run, delivery: Delivery) -> Outcome | Done | None:
        """Run the subscriber up to its first wait.  Returns the outcome, or None: then `finish` gives it.

        In a fresh copy of the context, without a task of its own: what it sets, no other delivery sees.
        """
        run.delivery = delivery
        event = delivery.event
        if delivery.attempt > self._attempts or delivery.envelope.expires_micros is not None:
            early = self._early(delivery)
            if early is not None:
                return early
        if type(event) not in self._passed:
            try:
                event = self._open(delivery)
            except UnknownEvent as error:
                return self._unknown(delivery, error)
            except (CodecError, TooLarge) as error:
                return Bury(f"undecodable: {one_line(str(error))}", describe(error, self._redact))
        inside = copy_context()
        try:
            coroutine = self._fn(event) if self._simple else self._steps(run, event)
            # `next` with a default knows an end without an exception, which would cost as much as the rest of this.
            run.waiting = inside.run(next, coroutine.__await__(), _ENDED)
        except BaseException as error:  # noqa: BLE001 - the boundary: whatever it raises is one failed attempt
            return self._judge(error, delivery, None)
        if run.waiting is _ENDED:
            return self._succeeded
        run.coroutine, run.inside = coroutine, inside
        return None

    async def finish(self, run: Run, delivery: Delivery) -> Outcome | Done:
        """Wait for a run that `start` began."""
        try:
            await _drive(run)
        except BaseException as error:  # noqa: BLE001 - the boundary, as above
            return self._judge(error, delivery, run.cause)
        finally:
            run.coroutine = run.inside = run.waiting = None
        if run.cause is None or self._transactions is not None:  # what is committed is done, however late
            return self._succeeded
        # One that heeded its cancellation by returning has run out of time all the same.
        return self._judge(asyncio.CancelledError(), delivery, run.cause)

    async def _steps(self, run: Run, event: object) -> None:
        assert run.delivery is not None  # noqa: S101 - set by start
        context = DeliveryContext(run.delivery, run.deadline, self._bus)
        if self._transactions is not None:
            await self._transactions.prepare(self.subscriber.name)
            self._succeeded = DONE if self._transactions.settles else ACK
        if self._transactions is None or not self._in_loop:
            await self._surrounded(run, event, context)
            return
        for last in (False, True):
            try:
                async with self._transactions.inside_async(run.delivery) as context.tx:
                    await self._surrounded(run, event, context)
            except Exception as error:
                if last or not self._transactions.conflicted(error):
                    raise
            else:
                return

    async def _surrounded(self, run: Run, event: object, context: DeliveryContext) -> None:
        if self._around:
            await wrapped(self._around, event, context, lambda: self._call(run, event, context))
        else:
            await self._call(run, event, context)

    async def _call(self, run: Run, event: object, context: DeliveryContext) -> None:
        arguments = (event, context) if self._wants_context else (event,)
        if self._in_loop:
            await self._fn(*self._joined_by(context, arguments))
            return
        inside = copy_context()
        if self._transactions is None:
            work = partial(self._fn, *arguments)
        else:
            work = partial(self._transact, context, arguments)
        if self._around_thread:
            work = partial(called_within, self._around_thread, work)
        run.thread = self._threads.run(lambda: inside.run(work))
        result = await asyncio.shield(run.thread)  # cancelling the wait must not pretend that the thread has ended
        if inspect.isawaitable(result):
            await result

    def _transact(self, context: DeliveryContext, arguments: tuple[object, ...]) -> None:
        """In the subscriber's thread: a transaction never crosses threads."""
        assert self._transactions is not None  # noqa: S101 - asked for by _call
        for last in (False, True):
            try:
                with self._transactions.inside(context.delivery) as context.tx:
                    self._call_here(self._joined_by(context, arguments))
            except Exception as error:
                if last or not self._transactions.conflicted(error):
                    raise
            else:
                return

    def _joined_by(self, context: DeliveryContext, arguments: tuple[object, ...]) -> tuple[object, ...]:
        """With the transaction, where the subscriber asks for it by a parameter's annotation."""
        wanted = self.subscriber.signature.tx_type
        return arguments if wanted is None else (*arguments, context.tx_as(wanted))

    def _call_here(self, arguments: tuple[object, ...]) -> None:
        if inspect.isawaitable(self._fn(*arguments)):
            raise TypeError(f"{self.subscriber.label} is transactional and returned an awaitable: make it `async def`")

    # -- before

    def _early(self, delivery: Delivery) -> Outcome | None:
        """What needs no run: its attempts went with the workers it killed, or it is too late."""
        if delivery.attempt > self._attempts:
            spent = f"its worker died {delivery.attempt - 1} times while running it alone"
            return Bury("attempts spent", Failure("postbus.WorkerDied", spent))
        expires = delivery.envelope.expires_micros
        if expires is not None and self._clock.time() * 1e6 >= expires:
            return Bury("expired")
        return None

    def _open(self, delivery: Delivery) -> object:
        envelope = delivery.envelope
        wanted = self.subscriber.interest.type_for(envelope.name)
        if wanted is None:
            raise UnknownEvent(f"{self.subscriber.label} does not take {envelope.name}")
        if envelope.format == OBJECT and isinstance(delivery.event, wanted):
            if isinstance(delivery.event, RawEvent) and delivery.event.key != envelope.key:  # publish(..., key=) wins
                return RawEvent.received(envelope.name, delivery.event.payload, envelope.key)
            return delivery.event
        if envelope.format == OBJECT:
            envelope = self._catalog.sealed(envelope, delivery.event)
        return self._catalog.open(envelope, wanted)

    def _unknown(self, delivery: Delivery, error: UnknownEvent) -> Outcome:
        """A newer worker may know it: hand it back for a while, then keep it dead."""
        now = self._clock.monotonic()
        first = self._first_seen.setdefault(delivery.envelope.id_bytes, now)
        if len(self._first_seen) > _UNKNOWN_KNOWN:
            del self._first_seen[next(iter(self._first_seen))]
        left = first + self._unknown_after - now
        if left > 0:
            return Requeue(min(left, _UNKNOWN_WAIT))
        self._first_seen.pop(delivery.envelope.id_bytes, None)
        return Bury(f"unknown event: {one_line(str(error))}")

    # -- after

    def _judge(self, error: BaseException, delivery: Delivery, cause: str | None) -> Outcome | Done:
        if isinstance(error, AlreadyDone):
            return self._succeeded
        if isinstance(error, LeaseLost) and self._transactions is not None:
            return ACK  # refused like any late settle, and counted there
        if isinstance(error, NotBegun) and cause in (None, "timeout"):
            return self._unbegun(error, delivery)
        match cause:
            case "closed":  # the loop is being torn down: not ours to answer
                raise error
            case "shutdown":
                return RELEASE
            case "timeout":
                error = TimeoutError(f"ran longer than its timeout of {self.subscriber.timeout:g} s")
            case _:
                pass
        return self.subscriber.retry.judge(error, attempt=delivery.attempt, luck=self._luck(), redact=self._redact)

    def _unbegun(self, error: NotBegun, delivery: Delivery) -> Outcome:
        now = self._clock.monotonic()
        if now - self._told >= _UNBEGUN_TOLD:
            self._told = now
            log.warning("%s waits, with no attempt spent: %s", self.subscriber.label, error)
        return Requeue(_UNBEGUN_WAIT * (1 + self._luck()), suspect=delivery.suspect)


@types.coroutine
def _drive(run: Run) -> Generator[Any, Any, None]:
    """Carry a started coroutine on in its own context, passing what it waits for up to the event loop."""
    coroutine, inside, waiting = run.coroutine, run.inside, run.waiting
    assert coroutine is not None  # noqa: S101 - `start` left it
    assert inside is not None  # noqa: S101 - `start` left it
    error: BaseException | None = None
    sent: Any = None
    while True:
        try:
            sent = yield waiting
        except GeneratorExit:
            run.cause = "closed"
            inside.run(coroutine.close)
            raise
        except BaseException as thrown:  # noqa: BLE001 - passed on to where it belongs
            error = thrown
        try:
            waiting = inside.run(coroutine.send, sent) if error is None else inside.run(coroutine.throw, error)
        except StopIteration:
            return
        error = None
