"""What a type checker says of a program that uses postbus.  Never run: test_typing.py has it checked.

Each `type: ignore` names an error that must be found; one that is not found any more is itself an error.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, assert_type
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from postbus import (
    Bus,
    Clock,
    Codec,
    Context,
    DeadLetter,
    DeliveryContext,
    Envelope,
    Failure,
    Handle,
    Health,
    Next,
    OutboxStats,
    PublishFailed,
    Publishing,
    PublishUnknown,
    RawEvent,
    Reject,
    Retry,
    Router,
    Snooze,
    Stats,
    around_delivery,
    around_publish,
    around_thread,
    event,
)


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int


@event("orders.order.shipped", topic="shipping", key=lambda shipped: shipped.order_id, version=2)
@dataclass(frozen=True)
class OrderShipped:
    order_id: str


def a_marked_class_stays_what_it_was() -> None:
    assert_type(OrderPlaced("o-1", 4200), OrderPlaced)
    OrderPlaced("o-1")  # type: ignore[call-arg]
    event("orders.order.placed", name="x")  # type: ignore[misc]


bus = Bus("sqlite:///shop.db", lease=dt.timedelta(seconds=30), middleware=[])
router = Router()
bus.include(router)
Bus("redis://localhost", transactions=async_sessionmaker())
assert_type(Bus.from_env(), Bus)
Bus("memory://", "shop")  # type: ignore[call-arg]
Bus("memory://", lease="30")  # type: ignore[arg-type]


# -- handlers


@bus.on(OrderPlaced)
def reserve(event: OrderPlaced) -> int:
    return event.amount


assert_type(reserve(OrderPlaced("o-1", 1)), int)


@bus.on(OrderPlaced, after_commit=True)
async def announce(event: OrderPlaced, context: Context) -> None:
    assert_type(context.id, UUID)
    assert_type(context.envelope, Envelope)
    await context.publish(OrderShipped(event.order_id))


@router.on(OrderPlaced, OrderShipped)
def count(event: OrderPlaced | OrderShipped) -> str:
    return event.order_id


assert_type(count(OrderShipped("o-1")), str)


@bus.on
def by_annotation(event: OrderPlaced) -> None: ...


@bus.on("orders.*", "billing.>")
def audit(event: RawEvent) -> None:
    assert_type(event.name, str)
    assert_type(event.decode(OrderPlaced), OrderPlaced)


@bus.on(OrderPlaced)  # type: ignore[arg-type]
def takes_another_event(event: OrderShipped) -> None: ...


@bus.on(OrderPlaced, OrderShipped)  # type: ignore[arg-type]
def takes_one_of_two(event: OrderPlaced) -> None: ...


@bus.on(OrderPlaced)  # type: ignore[arg-type]
def wants_a_delivery_in_process(event: OrderPlaced, context: DeliveryContext) -> None: ...


handle = bus.add_handler(reserve, OrderPlaced)
assert_type(handle, Handle)
handle.remove()


# -- subscribers


@bus.subscriber(
    OrderPlaced, name="receipts", retry=Retry(attempts=5, delay=0.1, multiplier=2, max_delay=10), timeout=30
)
async def send_receipt(event: OrderPlaced, context: DeliveryContext) -> None:
    assert_type(context.attempt, int)
    assert_type(context.subscription, str)
    assert_type(context.fence, int)
    if event.amount < 0:
        raise Reject("a negative amount")
    raise Snooze(dt.timedelta(minutes=5))


receipt: Callable[[OrderPlaced, DeliveryContext], Coroutine[Any, Any, None]] = send_receipt


@router.subscriber(OrderPlaced, OrderShipped, ordered=True, on_bury="park")
def project(event: OrderPlaced | OrderShipped, context: Context) -> None: ...


@bus.subscriber
async def ship(event: OrderPlaced) -> None: ...


@bus.subscriber("orders.>", concurrency=2)
def archive(event: RawEvent) -> None: ...


@bus.subscriber(OrderPlaced, transactional=True)
async def billed_in(event: OrderPlaced, session: AsyncSession) -> None: ...


@bus.subscriber(OrderPlaced, transactional=True)
def booked_in(event: OrderPlaced, context: DeliveryContext, session: Session) -> None:
    assert_type(context.tx_as(Session), Session)


assert_type(booked_in, Callable[[OrderPlaced, DeliveryContext, Session], None])


@bus.subscriber(OrderPlaced)  # type: ignore[arg-type]
async def ships_what_was_placed(event: OrderShipped) -> None: ...


bus.subscriber(OrderPlaced, on_bury="stop")  # type: ignore[call-overload]
bus.subscriber(OrderPlaced, attempts=3)  # type: ignore[call-overload]


# -- publishing


async def publishing() -> None:
    async with bus as opened:
        assert_type(opened, Bus)
        assert_type(await bus.publish(OrderPlaced("o-1", 1), key="o-1", delay=5, headers={"tenant": "a"}), Envelope)
        assert_type(await bus.publish_many([OrderPlaced("o-1", 1), RawEvent("orders.order.lost")]), list[Envelope])
        assert_type(await bus.call(OrderPlaced("o-1", 1)), None)
        assert_type(await bus.notify(OrderPlaced("o-1", 1)), None)
        assert_type(await bus.drain(timeout=5), None)
        assert_type(await bus.health(), Health)
        assert_type(await bus.stats(), Stats)
        assert_type(await bus.ping(), float)
        if bus.outbox is not None:
            assert_type(await bus.outbox.stats(), OutboxStats)
            assert_type(await bus.outbox.replay(), int)
        assert_type(await bus.dead.get(UUID(int=1)), DeadLetter | None)
        await bus.publish(OrderPlaced("o-1", 1), delay="5")  # type: ignore[arg-type]
        await bus.publish(OrderPlaced("o-1", 1), "o-1")  # type: ignore[call-arg]


def publishing_without_a_loop() -> None:
    with bus as opened:
        assert_type(opened, Bus)
        assert_type(bus.publish_sync(OrderPlaced("o-1", 1)), Envelope)
        assert_type(bus.publish_many_sync([OrderPlaced("o-1", 1)]), list[Envelope])
        assert_type(bus.call_sync(OrderPlaced("o-1", 1)), None)
        assert_type(bus.notify_sync(OrderPlaced("o-1", 1)), None)


async def failing() -> None:
    try:
        await bus.publish(OrderPlaced("o-1", 1))
    except (PublishFailed, PublishUnknown) as error:
        for result in error.results:
            assert result is None or isinstance(result, Exception)


def reading(letter: DeadLetter, clock: Clock) -> None:
    assert_type(letter.id, UUID)
    assert_type(letter.envelope, Envelope)
    assert_type(letter.subscription, str)
    assert_type(letter.attempts, int)
    assert_type(letter.buried_at, dt.datetime)
    assert_type(letter.failure, Failure | None)
    assert_type(clock.monotonic(), float)
    letter.attempts = 3  # type: ignore[misc]


async def operating() -> None:
    stats = await bus.stats()
    assert_type(stats["receipts"].backlog, int)
    assert_type(stats.oldest_age, float | None)
    for letter in await bus.dead.list("receipts", limit=10):
        assert_type(letter, DeadLetter)
    assert_type(await bus.dead.replay("receipts"), int)
    for subscription in await bus.subscriptions.list():
        assert_type(subscription.name, str)
    await bus.subscriptions.pause("receipts")
    assert_type(await bus.subscriptions.retire("receipts"), int)
    async with bus.worker(concurrency=4):
        pass


async def in_a_transaction(connection: sqlite3.Connection) -> None:
    with bus.transaction(connection) as tx:
        assert_type(bus.publish_sync(OrderPlaced("o-1", 1), within=tx), Envelope)
    async with bus.transaction(connection) as tx:
        assert_type(await bus.publish(OrderPlaced("o-1", 1), within=tx), Envelope)


async def in_a_session(session: AsyncSession, blocking: Session) -> None:
    assert_type(await bus.publish(OrderPlaced("o-1", 1), within=session), Envelope)
    assert_type(bus.publish_sync(OrderPlaced("o-1", 1), within=blocking), Envelope)


class Upper:
    """A codec of one's own needs no base class."""

    content_type = "text/upper"

    def encode(self, event: Any) -> bytes:
        return str(event).upper().encode()

    def decode(self, body: bytes, event_type: type[Any]) -> Any:
        return event_type(body.decode())

    def plain(self, body: bytes) -> Any:
        return body.decode()


codec: Codec = Upper()
Bus("memory://", codec=Upper())
Bus("memory://", codec=7)  # type: ignore[arg-type]


# -- middleware


@around_delivery
async def timed(event: object, context: DeliveryContext, call_next: Next) -> object:
    result = call_next()
    assert_type(result, Awaitable[object])
    return await result


@around_publish
def tagged(publishing: Publishing) -> Any:
    publishing.headers["tenant"] = "a"
    yield


@around_thread
def tidied() -> Iterator[None]:
    yield


Bus("memory://", middleware=[timed, tagged, tidied])
Bus("memory://", middleware=[announce])  # type: ignore[list-item]
