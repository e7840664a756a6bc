"""In-process handlers: order, errors, snapshots, threads, wildcards, contexts."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from postbus import (
    Bus,
    CodecError,
    ConfigError,
    Context,
    DeliveryContext,
    PostbusError,
    RawEvent,
    Router,
    UnknownEvent,
    event,
)


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int = 1


@event("orders.order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    order_id: str


@event("identity.user.registered")
@dataclass(frozen=True)
class UserRegistered:
    email: str


@pytest.fixture
def bus() -> Bus:
    return Bus()


def test_handlers_run_in_the_order_of_registration(bus: Bus) -> None:
    ran: list[str] = []
    bus.add_handler(lambda _: ran.append("by class"), OrderPlaced)
    bus.add_handler(lambda _: ran.append("by pattern"), "orders.>")
    bus.add_handler(lambda _: ran.append("by name"), "orders.order.placed")
    bus.call_sync(OrderPlaced("o-1"))
    assert ran == ["by class", "by pattern", "by name"]


def test_the_first_error_stops_and_reaches_the_caller_with_its_type_and_a_note(bus: Bus) -> None:
    ran: list[str] = []

    @bus.on(OrderPlaced)
    def fails(_: OrderPlaced) -> None:
        raise KeyError("stock")

    bus.add_handler(lambda _: ran.append("after"), OrderPlaced)
    with pytest.raises(KeyError) as caught:
        bus.call_sync(OrderPlaced("o-1"))
    assert ran == []
    assert any("orders.order.placed" in note and "fails" in note for note in caught.value.__notes__)


async def test_notify_runs_all_and_raises_one_group(bus: Bus) -> None:
    ran: list[str] = []

    @bus.on(OrderPlaced)
    def one(_: OrderPlaced) -> None:
        raise KeyError("one")

    @bus.on(OrderPlaced)
    async def two(_: OrderPlaced) -> None:
        ran.append("two")

    @bus.on(OrderPlaced)
    def three(_: OrderPlaced) -> None:
        raise SystemExit(3)

    with pytest.raises(ExceptionGroup) as caught:
        await bus.notify(OrderPlaced("o-1"))
    assert ran == ["two"]
    first, second = caught.value.exceptions
    assert isinstance(first, KeyError)
    assert isinstance(second, PostbusError)
    assert isinstance(second.__cause__, SystemExit)


def test_an_event_without_handlers_is_no_error(bus: Bus) -> None:
    bus.call_sync(OrderPlaced("o-1"))
    bus.notify_sync(OrderPlaced("o-1"))


def test_what_is_no_event_is_refused_with_the_next_step(bus: Bus) -> None:
    with pytest.raises(UnknownEvent, match=r"mark it with @event"):
        bus.call_sync(object())


def test_the_mark_is_not_inherited(bus: Bus) -> None:
    class Express(OrderPlaced):
        pass

    with pytest.raises(UnknownEvent, match="not inherited"):
        bus.call_sync(Express("o-1"))


def test_handlers_may_register_and_remove_while_one_is_dispatched(bus: Bus) -> None:
    ran: list[str] = []

    def late(_: Any) -> None:
        ran.append("late")

    def first(_: Any) -> None:
        ran.append("first")
        second_handle.remove()
        bus.add_handler(late, OrderPlaced)

    bus.add_handler(first, OrderPlaced)
    second_handle = bus.add_handler(lambda _: ran.append("second"), OrderPlaced)
    bus.call_sync(OrderPlaced("o-1"))
    assert ran == ["first", "second"]
    bus.call_sync(OrderPlaced("o-2"))
    assert ran == ["first", "second", "first", "late"]


def test_closures_of_one_literal_are_told_apart(bus: Bus) -> None:
    ran: list[int] = []
    handles = [bus.add_handler(lambda _, n=n: ran.append(n), OrderPlaced) for n in range(3)]
    handles[1].remove()
    handles[1].remove()
    bus.call_sync(OrderPlaced("o-1"))
    assert ran == [0, 2]


@pytest.mark.parametrize(
    ("pattern", "takes"),
    [
        ("orders.order.*", {"orders.order.placed", "orders.order.shipped"}),
        ("orders.*", set()),
        ("orders.>", {"orders.order.placed", "orders.order.shipped"}),
        ("*.order.placed", {"orders.order.placed"}),
        (">", {"orders.order.placed", "orders.order.shipped", "identity.user.registered"}),
    ],
)
def test_wildcards(bus: Bus, pattern: str, takes: set[str]) -> None:
    seen: set[str] = set()
    bus.add_handler(lambda raw: seen.add(raw.name), pattern)
    for one in (OrderPlaced("o-1"), OrderShipped("o-1"), UserRegistered("a@b")):
        bus.call_sync(one)
    assert seen == takes


def test_a_name_gives_a_raw_event_and_an_annotation_the_type_to_decode_into(bus: Bus) -> None:
    seen: list[object] = []

    @dataclass
    class Placed:
        order_id: str

    @bus.on("orders.order.placed")
    def raw(event: RawEvent) -> None:
        seen.append(event.payload)

    @bus.on("orders.order.placed")
    def typed(event: Placed) -> None:
        seen.append(event)

    bus.call_sync(OrderPlaced("o-1", 7))
    assert seen == [{"order_id": "o-1", "amount": 7}, Placed("o-1")]


def test_a_raw_event_reaches_typed_handlers(bus: Bus) -> None:
    seen: list[object] = []
    bus.add_handler(seen.append, OrderPlaced)
    bus.call_sync(RawEvent("orders.order.placed", {"order_id": "o-1", "amount": 2}))
    assert seen == [OrderPlaced("o-1", 2)]
    with pytest.raises(CodecError, match=r"orders\.order\.placed.*order_id"):
        bus.call_sync(RawEvent("orders.order.placed", {"amount": 2}))


def test_the_event_type_is_read_from_the_annotation(bus: Bus) -> None:
    seen: list[object] = []

    @bus.on
    def bare(event: OrderPlaced) -> None:
        seen.append(event)

    @bus.on()
    def union(event: OrderPlaced | OrderShipped) -> None:
        seen.append(event)

    bus.call_sync(OrderPlaced("o-1"))
    bus.call_sync(OrderShipped("o-1"))
    assert seen == [OrderPlaced("o-1"), OrderPlaced("o-1"), OrderShipped("o-1")]


async def test_a_context_that_may_be_none_is_given_all_the_same(bus: Bus) -> None:
    seen: list[object] = []

    @bus.on
    def optional(event: OrderPlaced, context: Context | None = None) -> None:
        seen.append(context and context.name)

    @bus.subscriber
    async def delivered(event: OrderPlaced, context: DeliveryContext | None) -> None:
        seen.append(context and context.attempt)

    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
    assert seen == ["orders.order.placed", 1]


def test_bad_signatures_are_refused_at_registration(bus: Bus) -> None:
    with pytest.raises(ConfigError, match="takes no event"):
        bus.add_handler(lambda: None, OrderPlaced)
    with pytest.raises(ConfigError, match="does not say which events"):
        bus.add_handler(lambda event: None)
    with pytest.raises(ConfigError, match="'other' that nobody will pass"):
        bus.add_handler(lambda event, other: None, OrderPlaced)
    with pytest.raises(ConfigError, match="'Nowhere', which cannot be found"):

        @bus.on("orders.order.placed")
        def unresolved(event: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - that is the case

    with pytest.raises(ConfigError, match="not a valid pattern"):
        bus.add_handler(lambda event: None, "orders.pla*")
    with pytest.raises(ConfigError, match="annotate `Context` instead"):

        @bus.on(OrderPlaced)
        def delivered(event: OrderPlaced, context: DeliveryContext) -> None: ...


def test_two_classes_of_one_name_are_refused(bus: Bus) -> None:
    @event("orders.order.placed")
    @dataclass
    class Other:
        pass

    bus.add_handler(lambda event: None, OrderPlaced)
    with pytest.raises(ConfigError, match=r"both named 'orders\.order\.placed'"):
        bus.add_handler(lambda event: None, Other)


async def test_a_context_carries_the_envelope_and_the_transaction(bus: Bus) -> None:
    seen: list[Context] = []

    @bus.on(OrderPlaced)
    async def handler(event: OrderPlaced, context: Context) -> None:
        seen.append(context)

    tx = object()
    await bus.call(OrderPlaced("o-1"), within=tx)
    (context,) = seen
    assert (context.name, context.envelope.key, context.tx) == ("orders.order.placed", "o-1", tx)
    with pytest.raises(ConfigError, match="asks for a dict"):
        context.tx_as(dict)


def test_a_sync_call_that_reaches_an_async_handler_says_what_to_do_and_runs_nothing(bus: Bus) -> None:
    ran: list[str] = []
    bus.add_handler(lambda _: ran.append("first"), OrderPlaced)

    @bus.on(OrderPlaced)
    async def later(event: OrderPlaced) -> None: ...

    for call in (bus.call_sync, bus.notify_sync):
        with pytest.raises(ConfigError, match=r"`await bus\.(call|notify)\(\.\.\.\)`"):
            call(OrderPlaced("o-1"))
    assert ran == []


def test_a_def_that_returns_a_coroutine_is_not_dropped_in_silence(bus: Bus) -> None:
    async def inner() -> None: ...

    bus.add_handler(lambda _: inner(), OrderPlaced)
    with pytest.raises(ConfigError, match="returned an awaitable"):
        bus.call_sync(OrderPlaced("o-1"))


def test_routers_bring_their_handlers_in_the_order_of_registration(bus: Bus) -> None:
    ran: list[str] = []
    router, inner = Router(), Router()
    bus.add_handler(lambda _: ran.append("bus"), OrderPlaced)
    inner.add_handler(lambda _: ran.append("inner"), OrderPlaced)
    router.include(inner)
    bus.include(router)
    router.add_handler(lambda _: ran.append("later"), OrderPlaced)
    bus.call_sync(OrderPlaced("o-1"))
    assert ran == ["bus", "inner", "later"]
    with pytest.raises(ConfigError, match="cannot include itself"):
        inner.include(bus)


def test_threads_may_register_and_call_at_once(bus: Bus) -> None:
    counts = [0] * 8
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            bus.add_handler(lambda _: None, OrderPlaced).remove()

    def publish(place: int) -> None:
        def count(_: Any) -> None:
            counts[place] += 1

        handle = bus.add_handler(count, RAW_NAMES[place])
        for _ in range(2_000):
            bus.call_sync(RawEvent(RAW_NAMES[place]))
        handle.remove()

    churner = threading.Thread(target=churn)
    publishers = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    churner.start()
    for thread in publishers:
        thread.start()
    for thread in publishers:
        thread.join()
    stop.set()
    churner.join()
    assert counts == [2_000] * 8


RAW_NAMES = [f"thread.n{n}.ticked" for n in range(8)]


async def test_async_handlers_are_awaited_one_after_the_other(bus: Bus) -> None:
    ran: list[str] = []

    @bus.on(OrderPlaced)
    async def slow(event: OrderPlaced) -> None:
        await asyncio.sleep(0)
        ran.append("slow")

    @bus.on(OrderPlaced)
    def quick(event: OrderPlaced) -> None:
        ran.append("quick")

    await bus.call(OrderPlaced("o-1"))
    assert ran == ["slow", "quick"]
