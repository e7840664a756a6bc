"""The background: attempts, time limits, cancellation, slots, shutdown; the same on every transport."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from postbus import (
    Bus,
    CodecError,
    ConfigError,
    DeliveryContext,
    Next,
    RawEvent,
    Reject,
    Retry,
    Snooze,
    around_delivery,
    around_thread,
    event,
)
from postbus.transport import Claimed
from server_kinds import PostgresKind, RedisKind
from servers import shared

Make = Callable[..., Bus]


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int = 1


@event("orders.order.shipped", key="order_id")
@dataclass(frozen=True)
class OrderShipped:
    order_id: str


QUICK = Retry(attempts=3, delay=0.01, multiplier=1, jitter=0)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    yield from shared(RedisKind())


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    yield from shared(PostgresKind())


@pytest.fixture(params=["memory://", "memory://?codec=msgpack", "sqlite", "sqlite json", "redis", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    namespace = f"t{uuid4().hex[:12]}"

    def bus(**options: Any) -> Bus:
        if request.param in ("redis", "postgres"):
            return Bus(request.getfixturevalue(f"{request.param}_url"), namespace=namespace, **options)
        if request.param.startswith("sqlite"):
            codec = "json" if "json" in request.param else "msgpack"
            return Bus(f"sqlite:///{tmp_path}/bus.db", codec=codec, **options)
        return Bus(request.param, **options)

    return bus


async def test_every_subscription_receives_its_own_copy(make: Make) -> None:
    bus = make()
    seen: list[tuple[str, object]] = []

    @bus.subscriber(OrderPlaced)
    async def one(event: OrderPlaced) -> None:
        seen.append(("one", event))

    @bus.subscriber(OrderPlaced)
    def two(event: OrderPlaced) -> None:
        seen.append(("two", event))

    @bus.subscriber("orders.>", name="three")
    async def raw(event: RawEvent) -> None:
        seen.append(("three", event.payload))

    async with bus:
        await bus.publish(OrderPlaced("o-1", 7))
        await bus.drain()
    assert sorted(seen, key=lambda pair: pair[0]) == [
        ("one", OrderPlaced("o-1", 7)),
        ("three", {"order_id": "o-1", "amount": 7}),
        ("two", OrderPlaced("o-1", 7)),
    ]


async def test_a_failing_delivery_is_tried_again_and_buried_with_its_error(make: Make) -> None:
    bus = make()
    attempts: list[int] = []

    @bus.subscriber(OrderPlaced, name="receipts", retry=QUICK)
    async def receipts(event: OrderPlaced, context: DeliveryContext) -> None:
        attempts.append(context.attempt)
        raise ConnectionError("mail is down")

    async with bus:
        envelope = await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
        (letter,) = await bus.dead.list("receipts")
        assert (letter.reason, letter.attempts, letter.envelope.id) == ("attempts spent", 3, envelope.id)
        assert "ConnectionError: mail is down" in letter.error
        assert "test_worker.py" in letter.error
        assert bus.catalog.open(letter.envelope, OrderPlaced) == OrderPlaced("o-1")
        assert await bus.dead.get(letter.id) == letter
        assert attempts == [1, 2, 3]
        assert await bus.dead.replay("receipts", ids=[letter.id]) == 1
        await bus.drain()
        assert attempts == [1, 2, 3, 1, 2, 3]
        assert await bus.dead.discard("receipts") == 1
        assert not await bus.dead.list("receipts")


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_what_a_subscriber_raises_decides(make: Make, asynchronous: bool) -> None:  # noqa: C901 - one case a line
    bus = make()
    starts: dict[str, int] = {}

    def act(order: str) -> None:
        starts[order] = starts.get(order, 0) + 1
        match order:
            case "reject":
                raise Reject("address unknown")
            case "snooze" if starts[order] == 1:
                raise Snooze(0.01)
            case "exit":
                raise SystemExit(1)
            case "interrupt":
                raise KeyboardInterrupt
            case "generator":
                raise GeneratorExit
            case "stop":
                raise StopIteration
            case "cancelled":
                raise asyncio.CancelledError
            case "timeout":
                raise TimeoutError("mine")
            case "group":
                raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])

    if asynchronous:

        @bus.subscriber(OrderPlaced, name="acts", retry=Retry(attempts=2, delay=0.01))
        async def acts(event: OrderPlaced) -> None:
            act(event.order_id)
    else:

        @bus.subscriber(OrderPlaced, name="acts", retry=Retry(attempts=2, delay=0.01))
        def acts_in_a_thread(event: OrderPlaced) -> None:
            act(event.order_id)

    failing = ["exit", "interrupt", "generator", "stop", "cancelled", "timeout", "group"]
    async with bus:
        await bus.publish_many([OrderPlaced(order) for order in ("fine", "reject", "snooze", *failing)])
        await bus.drain()
        letters = {letter.envelope.key: letter for letter in await bus.dead.list("acts")}
    assert starts == {"fine": 1, "reject": 1, "snooze": 2, **dict.fromkeys(failing, 2)}
    assert set(letters) == {"reject", *failing}
    assert letters["reject"].reason == "address unknown"
    assert "KeyError" in letters["group"].error
    assert all(letters[order].attempts == 2 for order in failing)


async def test_a_timeout_cancels_a_coroutine_and_spends_an_attempt(make: Make) -> None:
    bus = make()
    cancelled: list[int] = []

    @bus.subscriber(OrderPlaced, name="slow", timeout=0.05, retry=Retry(attempts=2, delay=0.01))
    async def slow(event: OrderPlaced, context: DeliveryContext) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(context.attempt)
            raise

    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
        (letter,) = await bus.dead.list("slow")
    assert cancelled == [1, 2]
    assert "timeout of 0.05 s" in letter.error
    assert bus.counters.timeouts == 2


async def test_a_thread_that_outlives_its_timeout_keeps_its_slot_and_is_not_run_beside_itself(make: Make) -> None:
    bus = make(lease=0.3)
    go_on = threading.Event()
    spans: list[tuple[float, float]] = []

    @bus.subscriber(OrderPlaced, name="stuck", timeout=0.05, concurrency=2, retry=Retry(attempts=2, delay=0))
    def stuck(event: OrderPlaced) -> None:
        began = time.monotonic()
        if not spans:
            go_on.wait(10)
        spans.append((began, time.monotonic()))

    async with bus:
        async with bus.worker():
            await bus.publish(OrderPlaced("o-1"))
            await until(lambda: bus.counters.leaked_slots == 1)
            leaked_at = time.monotonic()
            go_on.set()
            await until(lambda: len(spans) == 2)
            assert spans[1][0] - leaked_at > 0.2
            await until(lambda: bus.counters.leaked_slots == 0)
        assert not await bus.dead.list("stuck")


async def test_a_coroutine_that_swallows_its_cancellation_is_offered_again_after_its_lease(make: Make) -> None:
    bus = make(lease=0.2)
    done = asyncio.Event()
    starts: list[int] = []

    @bus.subscriber(OrderPlaced, name="deaf", timeout=0.05, concurrency=2)
    async def deaf(event: OrderPlaced, context: DeliveryContext) -> None:
        starts.append(context.attempt)
        while context.attempt == 1 and not done.is_set():
            try:
                await done.wait()
            except asyncio.CancelledError:
                continue

    async with bus, bus.worker():
        await bus.publish(OrderPlaced("o-1"))
        await until(lambda: bus.counters.leaked_slots == 1)
        await until(lambda: starts == [1, 2])
        assert bus.counters.leaked_slots == 1
        done.set()
        await until(lambda: bus.counters.leaked_slots == 0)


async def test_a_worker_whose_slots_have_all_leaked_ends(make: Make) -> None:
    bus = make(lease=0.1)
    release = asyncio.Event()

    @bus.subscriber(OrderPlaced, timeout=0.02, concurrency=1)
    async def deaf(event: OrderPlaced) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        with pytest.raises(RuntimeError, match="every slot of subscriber 'deaf'"):
            await asyncio.wait_for(bus.run_worker(), 10)
        release.set()
        await asyncio.sleep(0)


async def test_a_stop_hears_of_a_claim_that_a_bell_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for what is claimed, and no longer than that: not for its whole grace."""
    bus = Bus("memory://")
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="receipts")
    async with bus, bus.worker() as worker:
        while not worker.idle:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)
        under_way, answer = asyncio.Event(), asyncio.Event()

        async def slowly(*_: Any, **__: Any) -> Claimed:
            under_way.set()
            await answer.wait()
            return Claimed(())  # somebody else was quicker

        monkeypatch.setattr(bus.transport, "claim", slowly)
        await bus.publish(OrderPlaced("o-1"))
        await under_way.wait()
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        answer.set()
        await asyncio.wait_for(stopping, 15)


async def test_concurrency_is_kept_for_each_subscription_and_for_the_process(make: Make) -> None:
    bus = make(concurrency=5)
    now: dict[str, int] = {"a": 0, "b": 0}
    most: dict[str, int] = {"a": 0, "b": 0, "both": 0}
    full = asyncio.Event()

    def subscriber(name: str, limit: int) -> None:
        @bus.subscriber(OrderPlaced, name=name, concurrency=limit)
        async def run(event: OrderPlaced) -> None:
            now[name] += 1
            most[name] = max(most[name], now[name])
            most["both"] = max(most["both"], sum(now.values()))
            if most["both"] == 5:
                full.set()
            await full.wait()
            await asyncio.sleep(0.001)
            now[name] -= 1

    subscriber("a", 2)
    subscriber("b", 4)
    async with bus:
        await bus.publish_many([OrderPlaced(f"o-{n}") for n in range(60)])
        await bus.drain()
    assert most["a"] == 2
    assert 3 <= most["b"] <= 4
    assert most["both"] == 5


async def test_each_delivery_has_a_context_of_its_own(make: Make) -> None:
    bus = make()
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
    seen: list[str] = []

    @bus.subscriber(OrderPlaced, name="loop", concurrency=1)
    async def in_the_loop(event: OrderPlaced) -> None:
        seen.append(tenant.get())
        tenant.set(event.order_id)
        await asyncio.sleep(0)
        assert tenant.get() == event.order_id

    @bus.subscriber(OrderPlaced, name="thread", concurrency=1)
    def in_a_thread(event: OrderPlaced) -> None:
        seen.append(tenant.get())
        tenant.set(event.order_id)

    async with bus:
        await bus.publish_many([OrderPlaced(f"o-{n}") for n in range(5)])
        await bus.drain()
    assert seen == ["nobody"] * 10


async def test_middleware_runs_around_each_delivery(make: Make) -> None:
    steps: list[str] = []

    @around_delivery
    async def outer(event: object, context: DeliveryContext, call_next: Next) -> object:
        steps.append(f"outer {context.subscription}")
        try:
            return await call_next()
        finally:
            steps.append("outer ends")

    @around_delivery
    async def inner(event: object, context: DeliveryContext, call_next: Next) -> object:
        if context.envelope.key == "skip":
            return None
        return await call_next()

    bus = make(middleware=[outer, inner])

    @bus.subscriber(OrderPlaced)
    def receipts(event: OrderPlaced) -> None:
        steps.append(event.order_id)

    async with bus:
        await bus.publish(OrderPlaced("skip"))
        await bus.drain()
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
    assert steps == ["outer receipts", "outer ends", "outer receipts", "o-1", "outer ends"]


async def test_middleware_of_threads_runs_where_the_subscriber_runs(make: Make) -> None:
    steps: list[tuple[str, int]] = []
    flavour: ContextVar[str] = ContextVar("flavour", default="plain")

    @around_thread
    def outer() -> Iterator[None]:
        flavour.set("seen by the subscriber")
        try:
            yield
        finally:
            steps.append(("outer ends", threading.get_ident()))

    @around_thread
    def inner() -> Iterator[None]:
        yield
        steps.append(("inner ends", threading.get_ident()))

    bus = make(middleware=[outer, inner])

    @bus.subscriber(OrderPlaced, retry=Retry(attempts=1))
    def receipts(event: OrderPlaced) -> None:
        steps.append((flavour.get(), threading.get_ident()))
        if event.order_id == "bad":
            raise OSError

    @bus.subscriber(OrderPlaced)
    async def in_the_loop(event: OrderPlaced) -> None:
        assert flavour.get() == "plain"

    async with bus:
        for order in ("o-1", "bad"):
            await bus.publish(OrderPlaced(order))
            await bus.drain()
        assert len(await bus.dead.list("receipts")) == 1
        assert await bus.dead.list("in_the_loop") == []
    whole = ["seen by the subscriber", "inner ends", "outer ends"]
    assert [step for step, _ in steps] == [*whole, "seen by the subscriber", "outer ends"]
    assert threading.get_ident() not in {thread for _, thread in steps}


async def test_ordered_deliveries_of_a_key_run_one_at_a_time_in_order(make: Make) -> None:
    bus = make()
    running: set[str] = set()
    seen: dict[str, list[int]] = {}

    @bus.subscriber(OrderPlaced, ordered=True, concurrency=10, retry=Retry(attempts=2, delay=0.005, jitter=0))
    async def ordered(event: OrderPlaced, context: DeliveryContext) -> None:
        assert event.order_id not in running
        running.add(event.order_id)
        await asyncio.sleep(0)
        running.discard(event.order_id)
        if event.amount % 10 == 3 and context.attempt == 1:
            raise ConnectionError("once more")
        seen.setdefault(event.order_id, []).append(event.amount)

    async with bus:
        await bus.publish_many([OrderPlaced(f"o-{n % 4}", n // 4) for n in range(80)])
        await bus.drain()
    assert seen == {f"o-{n}": list(range(20)) for n in range(4)}


async def test_expired_events_become_dead_letters(make: Make) -> None:
    bus = make()
    ran: list[object] = []
    bus.add_subscriber(ran.append, OrderPlaced, name="late")
    async with bus:
        await bus.publish(OrderPlaced("o-1"), expires=0.0)
        await bus.drain()
        (letter,) = await bus.dead.list("late")
    assert letter.reason == "expired"
    assert ran == []


async def test_delayed_events_come_when_they_are_due(make: Make) -> None:
    bus = make()
    seen: dict[str, float] = {}

    @bus.subscriber(OrderPlaced)
    async def note(event: OrderPlaced) -> None:
        seen[event.order_id] = time.monotonic()

    async with bus, bus.worker():
        began = time.monotonic()
        await bus.publish(OrderPlaced("later"), delay=0.2)
        await bus.publish(OrderPlaced("now"))
        await until(lambda: len(seen) == 2)
    assert seen["now"] < seen["later"]
    assert seen["later"] - began >= 0.199


async def test_undecodable_bodies_become_dead_letters_and_the_worker_goes_on(tmp_path: Path) -> None:
    @event("orders.order.placed", key="order_id")
    @dataclass
    class Stranger:
        order_id: str
        amount: str

    url = f"sqlite:///{tmp_path}/bus.db"
    publisher, bus = Bus(url), Bus(url)
    seen: list[str] = []

    @bus.subscriber(OrderPlaced, name="receipts")
    async def receipts(event: OrderPlaced) -> None:
        seen.append(event.order_id)

    async with bus, publisher:
        await publisher.publish(Stranger("bad", "a lot"))
        await bus.publish(OrderPlaced("good"))
        await bus.drain()
        (letter,) = await bus.dead.list("receipts")
    assert seen == ["good"]
    assert letter.reason.startswith("undecodable: ")
    assert "amount" in letter.reason
    with pytest.raises(CodecError):
        bus.catalog.open(letter.envelope, OrderPlaced)


async def test_an_event_nobody_here_knows_is_handed_back_then_kept_dead(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bus.db"

    @event("orders.order.placed", key="order_id", version=2)
    @dataclass
    class Newer:
        order_id: str

    newer, older = Bus(url), Bus(url, unknown_after=0.0)
    ran: list[object] = []
    older.add_subscriber(ran.append, OrderPlaced, name="receipts")
    async with older, newer:
        await newer.publish(Newer("o-1"))
        await older.drain()
        (letter,) = await older.dead.list("receipts")
    assert letter.reason.startswith("unknown event: ")
    assert letter.attempts == 0
    assert ran == []


async def test_shutdown_hands_back_what_has_not_started_and_lets_the_running_finish(make: Make) -> None:
    bus = make()
    started, finish = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    @bus.subscriber(OrderPlaced, name="slow", concurrency=1, prefetch=10)
    async def slow(event: OrderPlaced) -> None:
        started.set()
        await finish.wait()
        ended.append(event.order_id)

    async with bus:
        worker = bus.make_worker()
        await worker.start()
        await bus.publish_many([OrderPlaced(f"o-{n}") for n in range(5)])
        await started.wait()
        stopping = asyncio.ensure_future(worker.stop())
        await until_stats(bus, "slow", lambda s: s.in_flight == 1 and s.backlog == 4)
        finish.set()
        await stopping
        stats = (await bus.stats())["slow"]
    assert ended == ["o-0"]
    assert (stats.backlog, stats.in_flight, stats.dead) == (4, 0, 0)


async def test_what_outlives_the_grace_is_cancelled_and_handed_back_with_no_attempt_spent(make: Make) -> None:
    bus = make()
    attempts: list[int] = []

    @bus.subscriber(OrderPlaced, name="slow")
    async def slow(event: OrderPlaced, context: DeliveryContext) -> None:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            await asyncio.sleep(60)

    async with bus:
        async with bus.worker(grace=0.05):
            await bus.publish(OrderPlaced("o-1"))
            await until(lambda: attempts == [1])
        await bus.drain()
    assert attempts == [1, 1]


async def test_a_drain_that_runs_out_of_time_hands_back_what_still_runs(make: Make) -> None:
    bus = make()
    attempts: list[int] = []

    @bus.subscriber(OrderPlaced, name="slow")
    async def slow(event: OrderPlaced, context: DeliveryContext) -> None:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            await asyncio.Event().wait()

    async with bus:
        await bus.publish(OrderPlaced("o-1"))
        async with asyncio.timeout(20):
            with pytest.raises(TimeoutError, match="slow"):
                await bus.drain(timeout=0.1)
        await bus.drain()
    assert attempts == [1, 1]


async def test_a_long_run_keeps_its_lease(make: Make) -> None:
    bus = make(lease=0.2)
    starts: list[str] = []

    @bus.subscriber(OrderPlaced)
    def sleeps(event: OrderPlaced) -> None:
        starts.append(event.order_id)
        time.sleep(0.9)

    async with bus, bus.worker(), bus.worker():
        await bus.publish(OrderPlaced("o-1"))
        await until(lambda: bus.counters.acked == 1)
    assert starts == ["o-1"]
    assert bus.counters.lease_lost == 0


async def test_a_late_subscriber_is_declared_before_the_next_publish(make: Make) -> None:
    bus = make()
    seen: list[object] = []
    async with bus:
        bus.add_subscriber(seen.append, OrderPlaced, name="late")
        await bus.publish(OrderPlaced("o-1"))
        await bus.drain()
    assert seen == [OrderPlaced("o-1")]


def test_names_that_could_not_be_durable_are_refused() -> None:
    bus = Bus()
    with pytest.raises(ConfigError, match="has no name of its own"):
        bus.add_subscriber(lambda event: None, OrderPlaced)
    bus.add_subscriber(lambda event: None, OrderPlaced, name="twice")
    with pytest.raises(ConfigError, match="two subscribers are named 'twice'"):
        bus.add_subscriber(lambda event: None, OrderShipped, name="twice")
    with pytest.raises(ConfigError, match="not a valid subscription name"):
        bus.add_subscriber(lambda event: None, OrderPlaced, name="a b")


async def until(true: Callable[[], bool], timeout: float = 15) -> None:
    async with asyncio.timeout(timeout):
        while not true():  # noqa: ASYNC110 - it looks at what no event tells
            await asyncio.sleep(0.002)


async def until_stats(bus: Bus, name: str, true: Callable[[Any], bool]) -> None:
    async with asyncio.timeout(15):
        while not true((await bus.stats())[name]):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.002)


@pytest.fixture(autouse=True)
async def no_tasks_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = {t for t in asyncio.all_tasks() - before if t is not asyncio.current_task()}
    async with asyncio.timeout(5):
        while left and not all(t.done() for t in left):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


async def test_a_stopped_worker_leaves_no_thread() -> None:
    bus = Bus()
    ran: list[str] = []
    bus.add_subscriber(lambda event: ran.append(event.order_id), OrderPlaced, name="threaded")
    before = set(threading.enumerate())
    async with bus:
        await bus.publish_many([OrderPlaced(f"o-{n}") for n in range(20)])
        await bus.drain()
    assert len(ran) == 20
    await until(lambda: not [t for t in set(threading.enumerate()) - before if t.name.startswith("postbus")])
