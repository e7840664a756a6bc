"""The memory transport passes the suite; and what is its own: the bound, threads, forks, what it remembers."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postbus.address import Address, Settings
from postbus.delivery import Ack, Bury, Delivery, Release
from postbus.envelope import OBJECT, Envelope, new_id
from postbus.errors import Closed, ConfigError, ForkError, TransportFull
from postbus.testing import ManualClock, TransportSuite
from postbus.transport import Append, DeadQuery, Duplicate, Outgoing, Refused, Stored, SubscriptionSpec, Transport
from postbus.transports.memory import MemoryTransport, connect, ids
from postbus.transports.memory.ids import RecentIds

SPEC = SubscriptionSpec(name="s", wants=("a.>",))


class TestMemory(TransportSuite):
    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse("memory://"), settings)


class TestMemoryWithCodec(TransportSuite):
    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse("memory://?codec=msgpack&maxsize=20000"), settings)


def made(url: str = "memory://", **settings: object) -> MemoryTransport:
    return connect(Address.parse(url), Settings(**settings))  # type: ignore[arg-type]


def item(event: object = None, *, name: str = "a.b", key: str | None = None) -> Outgoing:
    envelope = Envelope(new_id(), name, "a", key, time.time_ns() // 1000, 1, OBJECT, b"")
    return Outgoing(envelope, event)


async def opened(url: str = "memory://", **settings: object) -> MemoryTransport:
    transport = made(url, **settings)
    await transport.open()
    await transport.declare([SPEC])
    return transport


async def claimed(transport: MemoryTransport, limit: int = 100) -> list[Delivery]:
    return list((await transport.claim("s", owner="w", limit=limit, lease=30)).deliveries)


async def finish(transport: MemoryTransport, limit: int = 100) -> int:
    found = await claimed(transport, limit)
    await transport.settle([(delivery, Ack()) for delivery in found])
    return len(found)


@pytest.fixture
async def small() -> AsyncIterator[MemoryTransport]:
    transport = await opened("memory://?maxsize=3", publish_timeout=20.0)
    yield transport
    await transport.close()


def kinds(results: object) -> list[type]:
    return [type(result) for result in results]  # type: ignore[attr-defined]


# -- the URL


def test_an_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="maxsise"):
        made("memory://?maxsise=3")


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_bound_that_makes_no_sense_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="maxsize"):
        made(f"memory://?maxsize={value}")


async def test_two_urls_are_two_stores() -> None:
    one, other = await opened(), await opened()
    one.append_now([item()], 0)
    assert await claimed(other) == []
    assert len(await claimed(one)) == 1


async def test_what_is_stored_outlives_closing_but_not_the_object() -> None:
    transport = await opened()
    transport.append_now([item()], 0)
    await transport.close()
    with pytest.raises(Closed):
        transport.append_now([item()], 0)
    await transport.open()
    assert len(await claimed(transport)) == 1


async def test_an_event_travels_as_the_object_it_is() -> None:
    transport = await opened()
    assert transport.traits.objects
    assert not made("memory://?codec=msgpack").traits.objects
    event = object()
    sent = item(event)
    transport.append_now([sent], 0)
    (delivery,) = await claimed(transport)
    assert delivery.event is event
    assert delivery.envelope is sent.envelope
    await transport.settle([(delivery, Bury("enough"))])
    assert await finish(transport) == 0


# -- the bound


async def test_a_full_store_refuses_at_once_who_will_not_wait(small: MemoryTransport) -> None:
    assert kinds(small.append_now([item() for _ in range(3)], 0)) == [Stored] * 3
    (refused,) = small.append_now([item()], 0)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, TransportFull)
    assert "maxsize" in str(refused.error)
    assert await finish(small) == 3


async def test_a_refused_event_is_not_remembered(small: MemoryTransport) -> None:
    small.append_now([item() for _ in range(3)], 0)
    late = item()
    assert kinds(small.append_now([late], 0)) == [Refused]
    await finish(small)
    assert kinds(small.append_now([late], 0)) == [Stored]
    assert kinds(small.append_now([late], 0)) == [Duplicate]


async def test_an_append_waits_for_room(small: MemoryTransport) -> None:
    small.append_now([item() for _ in range(3)], 0)
    waiting = [asyncio.create_task(small.append([item()])) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    assert await finish(small, limit=1) == 1
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert [task.done() for task in waiting] == [True, False, False, False, False]
    while not all(task.done() for task in waiting):
        await finish(small, limit=1)
        await asyncio.sleep(0)
    assert [kinds(task.result()) for task in waiting] == [[Stored]] * 5


@pytest.mark.parametrize("way", ["loop", "thread"])
async def test_whoever_waits_in_vain_is_refused_in_time(way: str) -> None:
    transport = await opened("memory://?maxsize=1", publish_timeout=0.05)
    transport.append_now([item()], 0)
    if way == "loop":
        async with asyncio.timeout(0.05 * 100):
            results = await transport.append([item(), item()])
    else:
        results = await asyncio.to_thread(transport.append_now, [item(), item()], 0.05)
    assert kinds(results) == [Refused, Refused]
    assert await finish(transport) == 1
    assert kinds(await transport.append([item()])) == [Stored]


async def test_one_who_goes_away_leaves_the_room_to_the_next(small: MemoryTransport) -> None:
    small.append_now([item() for _ in range(3)], 0)
    first, second = (asyncio.create_task(small.append([item()])) for _ in range(2))
    await asyncio.sleep(0)
    await finish(small, limit=1)  # wakes the first
    first.cancel()
    async with asyncio.timeout(9):  # half of what it waits for by itself
        assert kinds(await second) == [Stored]
    assert first.cancelled()


@pytest.mark.parametrize("way", ["acknowledged", "buried", "retired"])
async def test_whatever_ends_a_delivery_makes_room(small: MemoryTransport, way: str) -> None:
    small.append_now([item() for _ in range(3)], 0)
    waiting = asyncio.create_task(small.append([item()]))
    await asyncio.sleep(0)
    if way == "retired":
        await small.retire("s")
    else:
        outcome = Ack() if way == "acknowledged" else Bury("enough")
        await small.settle([(delivery, outcome) for delivery in await claimed(small)])
    assert kinds(await waiting) == [Stored]


async def test_a_retry_holds_its_room(small: MemoryTransport) -> None:
    small.append_now([item() for _ in range(3)], 0)
    await small.settle([(delivery, Release()) for delivery in await claimed(small)])
    assert kinds(small.append_now([item()], 0)) == [Refused]


async def test_a_fast_publisher_and_a_slow_subscriber_stay_within_bounds() -> None:
    transport = await opened("memory://?maxsize=5000", publish_timeout=50.0)
    total, batch = 1_000_000, 500
    body = bytes(200)
    before = resident()

    async def publish() -> None:
        for _ in range(total // batch):
            micros = time.time_ns() // 1000
            items = [Outgoing(Envelope(new_id(), "a.b", "a", None, micros, 1, "x/y", body)) for _ in range(batch)]
            assert kinds(await transport.append(items)) == [Stored] * batch

    async def work() -> int:
        done = 0
        while done < total:
            done += await finish(transport, limit=1000)
            (stats,) = await transport.stats(["s"]) if done % 100_000 < 1000 else [None]
            assert stats is None or stats.backlog + stats.in_flight <= 5000 + batch
            await asyncio.sleep(0)
        return done

    _, done = await asyncio.gather(publish(), work())
    assert done == total
    assert resident() - before < 100


def resident() -> float:
    """Megabytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


# -- threads


async def test_threads_publish_through_a_narrow_store_while_a_loop_works() -> None:
    transport = await opened("memory://?maxsize=20")
    each, threads = 400, 4
    answers: list[Append] = []

    def publish(name: str) -> None:
        for number in range(each):
            answers.extend(transport.append_now([item((name, number))], 30))

    running = [threading.Thread(target=publish, args=(f"t{number}",)) for number in range(threads)]
    for thread in running:
        thread.start()
    seen: list[tuple[str, int]] = []
    async with asyncio.timeout(50):
        while len(seen) < each * threads:
            await transport.wait(["s"], 5)
            while found := await claimed(transport, limit=7):
                seen += [delivery.event for delivery in found]  # type: ignore[misc]
                await transport.settle([(delivery, Ack()) for delivery in found])
    for thread in running:
        await asyncio.to_thread(thread.join)
    assert kinds(answers) == [Stored] * each * threads
    for number in range(threads):
        assert [n for name, n in seen if name == f"t{number}"] == list(range(each))


async def test_a_publish_may_happen_in_the_middle_of_another() -> None:
    """As when a signal handler publishes while this very thread is in here."""
    transport = await opened()
    with transport._lock:
        transport.append_now([item()], 0)
    assert len(await claimed(transport)) == 1


def test_a_loop_that_ended_while_it_waited_stops_nobody() -> None:
    async def prepare() -> MemoryTransport:
        transport = await opened()
        await transport.wait(["s"], 0)
        return transport

    ended = asyncio.new_event_loop()
    transport = ended.run_until_complete(prepare())
    waiting = ended.create_task(transport.wait(["s"], 60))
    ended.run_until_complete(asyncio.sleep(0))
    ended.close()
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what this test is about
    answers: list[Append] = []
    thread = threading.Thread(target=lambda: answers.extend(transport.append_now([item()], 0)))
    thread.start()
    thread.join()
    assert kinds(answers) == [Stored]
    assert asyncio.run(finish(transport)) == 1


# -- forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
async def test_a_forked_child_is_refused_and_its_parent_goes_on() -> None:
    transport, unopened = await opened(), made()

    def child() -> None:
        with pytest.raises(ForkError, match="sqlite"):
            transport.append_now([item()], 0)
        for call in (transport.open(), transport.claim("s", owner="w", limit=1, lease=1), transport.stats()):
            with pytest.raises(ForkError):
                call.send(None)
        with pytest.raises(StopIteration):
            transport.close().send(None)
        with pytest.raises(StopIteration):
            unopened.open().send(None)
        unopened.append_now([item()], 0)

    with transport._lock, warnings.catch_warnings():  # as if another thread were in there
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on warns of forks beside threads
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child()
                code = 0
            finally:
                os._exit(code)
    assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
    transport.append_now([item()], 0)
    assert await finish(transport) == 1


# -- what is remembered


async def test_a_store_with_leases_out_is_freed_with_its_transport() -> None:
    transport = await opened()
    transport.append_now([item() for _ in range(5)], 0)
    held = await claimed(transport)
    gone = weakref.ref(transport)
    await transport.close()
    queue = weakref.ref(transport._store)
    del transport, held
    gc.collect()
    assert (gone(), queue()) == (None, None)


async def test_nothing_is_kept_of_what_is_over() -> None:
    transport = await opened()
    await transport.declare([SubscriptionSpec(name="o", wants=("a.>",), ordered=True)])
    transport.append_now([item(key=str(number % 3)) for number in range(9)], 0)
    for name in ("s", "o", "o", "o"):
        found = (await transport.claim(name, owner="w", limit=9, lease=30)).deliveries
        await transport.settle([(d, Bury("enough") if n % 2 else Ack()) for n, d in enumerate(found)])
    letters = [letter.id for letter in await transport.dead(None, DeadQuery())]
    for name in ("s", "o"):
        await transport.discard(name, letters)
    store = transport._store
    keys = store.queues["o"].keys
    assert keys is not None
    assert (store.unfinished, store._leases, store.dead, keys._lanes, keys._places) == (0, {}, {}, {}, {})
    assert transport._doorbell._callers == []


async def test_whoever_stops_waiting_is_forgotten() -> None:
    transport = await opened()
    await transport.wait(["s"], 0)
    assert await transport.wait(["s"], 0.001) == set()
    waiting = asyncio.create_task(transport.wait(["s"], 60))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert transport._doorbell._callers == []


async def test_a_subscription_that_is_worked_off_is_quiet() -> None:
    transport = await opened()
    transport.append_now([item()], 0)
    assert await finish(transport) == 1
    assert await transport.wait(["s"], 0) == set()


async def test_made_up_names_do_not_fill_the_memory() -> None:
    transport = await opened()
    for number in range(10_000):
        transport.append_now([item(name=f"made.up{number}")], 0)
    assert len(transport._store._routes) < 10_000


async def test_time_that_is_moved_by_hand_rings() -> None:
    clock = ManualClock()
    transport = await opened(clock=clock)
    await transport.append([Outgoing(item().envelope, delay=5)])
    await finish(transport)
    await transport.wait(["s"], 0)
    waiting = asyncio.create_task(transport.wait(["s"], 50))
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.advance(5)
    assert await waiting == {"s"}
    assert await finish(transport) == 1


@pytest.mark.parametrize("seed", range(60))
def test_ids_are_remembered_exactly(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ids come, in whatever order, while clocks go on and jump: none is forgotten early, none is invented."""
    monkeypatch.setattr(ids, "RUN", 8)
    luck, clock = random.Random(seed), ManualClock()
    recent = RecentIds(clock, 600.0)
    added: dict[bytes, float] = {}
    for number in range(600):
        event_id = any_id(luck, clock, number, list(added))
        new = recent.add(event_id)
        recent.tidy()
        age = clock.monotonic() - added.get(event_id, float("-inf"))
        assert not new if age < 600 else new or age < 3 * 600
        if new:
            added[event_id] = clock.monotonic()
        clock.advance(luck.choice([0, 0, 0, 1, 30, 200]))
        if luck.random() < 0.005:
            clock.set_time(clock.time() + luck.choice([-5000, 90_000]))


def any_id(luck: random.Random, clock: ManualClock, number: int, known: list[bytes]) -> bytes:
    now = int(clock.time() * 1000) + number
    kind = luck.random()
    if kind < 0.6 or not known:
        return now.to_bytes(6, "big") + luck.randbytes(10)
    if kind < 0.7:
        return luck.randbytes(16)
    if kind < 0.8:  # about as far ahead as is still believed
        return (now + 86_400_000 + luck.randint(-700_000, 1_300_000)).to_bytes(6, "big") + luck.randbytes(10)
    return luck.choice(known[-100:])


def test_remembered_ids_are_small() -> None:
    clock = ManualClock(time=time.time())
    recent = RecentIds(clock, 600.0)
    for number in range(100_000):
        recent.add((int(clock.time() * 1000) + number).to_bytes(6, "big") + bytes(10))
        recent.tidy()
    assert len(recent.growing) < ids.RUN
    assert sum(len(run) for run in recent._now.runs) == 16 * (100_000 - len(recent.growing))
