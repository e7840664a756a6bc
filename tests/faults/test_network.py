"""Connections are cut, reset, delayed and swallowed while events flow; the ledger says what that did.  FAULTS C."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from uuid import uuid4

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ground import GROUNDS, Ground, at, grounds
from rig import Rig, rig
from rig_events import Happened

from postbus import Bus, PublishFailed, PublishUnknown
from proxy import Proxy, Way
from servers import Server

SOON = 20.0
WAYS: tuple[Way, Way] = ("requests", "replies")


@pytest.fixture(params=GROUNDS)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Ground, Server]]:
    yield from grounds(request.param)


@pytest.fixture
def ground(place: tuple[Ground, Server]) -> Ground:
    return place[0]


@pytest.fixture
def proxy(place: tuple[Ground, Server]) -> Iterator[Proxy]:
    ground, server = place
    with Proxy(at(server.url, query=ground.hasty)) as made:
        yield made


@pytest.fixture
def torment(place: tuple[Ground, Server], proxy: Proxy, tmp_path: Path) -> Iterator[Rig]:
    """A rig whose own looks go past the proxy."""
    ground, server = place
    with rig(tmp_path, at(server.url, query=ground.hasty), pause=0.02) as made:
        yield made


# -- one answer is lost


class Shop:
    """A bus behind the proxy, whose leases outlast the test: what is not handed back is not handled."""

    def __init__(self, proxy: Proxy, direct: str) -> None:
        self.bus = Bus(proxy.url, lease=300, publish_timeout=3)
        self.direct = direct
        self.handled: Counter[int] = Counter()
        self._news = asyncio.Condition()
        self.bus.add_subscriber(self._handle, Happened, name="plain")

    async def _handle(self, happened: Happened) -> None:
        async with self._news:
            self.handled[happened.number] += 1
            self._news.notify_all()

    async def until(self, *numbers: int) -> None:
        async with asyncio.timeout(SOON), self._news:
            await self._news.wait_for(lambda: set(numbers) <= set(self.handled))

    async def settled(self) -> None:
        """Wait until nothing is left, as one sees who looks past the proxy."""
        async with asyncio.timeout(SOON), Bus(self.direct, declare=False) as bus:
            while (stats := (await bus.stats())["plain"]).backlog or stats.in_flight:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.03)


@pytest.fixture
def shop(place: tuple[Ground, Server], proxy: Proxy) -> Shop:
    return Shop(proxy, place[1].url)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_an_append_whose_answer_was_lost_is_stored_once(
    shop: Shop, ground: Ground, proxy: Proxy, after: int
) -> None:
    """The publisher is told that nobody knows, unless the transport could find out; it publishes again all the same."""
    event_id = uuid4()
    async with shop.bus:
        await shop.bus.publish(Happened(0))
        proxy.cut(on=ground.append, after=after)
        with nullcontext() if ground.asks_again else pytest.raises(PublishUnknown, match="same id"):
            await shop.bus.publish(Happened(1), id=event_id)
        assert proxy.resets == 1
        await shop.bus.publish(Happened(1), id=event_id)
        await shop.bus.drain()
    assert shop.handled == {0: 1, 1: 1}


async def test_a_claim_whose_answer_was_lost_strands_nothing(shop: Shop, ground: Ground, proxy: Proxy) -> None:
    """What it took is handed back long before its lease would end."""
    published = 0
    async with shop.bus, shop.bus.worker(), Bus(shop.direct, declare=False) as other:
        for cuts, (request, after) in enumerate(product(ground.claims, (0, 200)), 1):
            proxy.cut(on=request, after=after)
            while proxy.resets < cuts:  # there are several ways to claim: it must be this one
                await other.publish_many([Happened(n) for n in range(published, published + 50)])
                published += 50
                await shop.until(*range(published))
                await shop.settled()
    assert shop.handled == dict.fromkeys(range(published), 1)


async def test_a_settle_whose_answer_was_lost_runs_nothing_twice(shop: Shop, ground: Ground, proxy: Proxy) -> None:
    # Published past the proxy: a settle that is sent again may be what is cut, and would take a publish with it.
    async with shop.bus, shop.bus.worker(), Bus(shop.direct, declare=False) as other:
        for n in range(10):
            proxy.cut(on=ground.settle, after=n % 2)
            await other.publish(Happened(n), id=uuid4())
            await shop.until(n)
            await shop.settled()
    assert proxy.resets == 10
    assert shop.handled == dict.fromkeys(range(10), 1)


# -- nothing gets through


@pytest.mark.parametrize("fault", ["refused", "swallowed"])
async def test_a_publish_ends_in_time_and_what_failed_for_good_never_comes(
    shop: Shop, proxy: Proxy, fault: str
) -> None:
    """Row 26: whatever is not known to have failed may come, and comes once."""
    failed: set[int] = set()
    async with shop.bus:
        await shop.bus.publish(Happened(0))
        if fault == "refused":
            proxy.refuse()
            proxy.kill()
        else:
            proxy.blackhole("requests")
        for n in range(1, 4):
            began = time.monotonic()
            with pytest.raises((PublishFailed, PublishUnknown)) as raised:
                await shop.bus.publish(Happened(n))
            assert time.monotonic() - began < 3 + 1
            if raised.type is PublishFailed:
                failed.add(n)
        proxy.accept()
        proxy.heal()
        await published(shop.bus, Happened(9))
        await shop.bus.drain()
    assert {0, 9} <= set(shop.handled) <= set(range(10)) - failed
    assert set(shop.handled.values()) == {1}
    if fault == "refused":
        assert len(failed) >= 2, "a connection that is not made carries nothing"


async def published(bus: Bus, happened: Happened) -> None:
    """Publish as often as it takes, always with the same id."""
    event_id = uuid4()
    async with asyncio.timeout(SOON):
        while True:
            try:
                await bus.publish(happened, id=event_id)
            except (PublishFailed, PublishUnknown):
                await asyncio.sleep(0.05)
            else:
                return


# -- the network is bad


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_random_resets_lose_nothing_and_mix_up_no_answers(torment: Rig, proxy: Proxy) -> None:
    """Row 30, scaled down: every connection of publishers and workers, again and again, at any byte."""
    publishers = [torment.publisher(start, 2_500, 10, url=proxy.url) for start in (0, 2_500)]
    for _ in range(2):
        torment.worker(url=proxy.url)
    await torment.more_ends(100)
    proxy.reset_at_random(60_000, seed=30)
    await torment.until(lambda: all(p.poll() == 0 for p in publishers), 60, "the publishers end")
    await torment.until(lambda: proxy.resets >= 30, 60, "enough was reset")
    proxy.heal()
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted > 2_500, verdict
    assert not verdict.lost, verdict
    assert not verdict.unexpected, verdict
    assert not verdict.overlaps, verdict
    assert not verdict.disorder, verdict
    assert verdict.extra_starts <= proxy.resets * 2 * torment.concurrency, verdict


@pytest.mark.soak
@pytest.mark.timeout(90)
@pytest.mark.parametrize("way", WAYS)
async def test_a_worker_that_is_cut_off_one_way_is_replaced(torment: Rig, proxy: Proxy, way: Way) -> None:
    """Row 29: no end and no reset is ever heard; the others take over when the leases end."""
    lonely, other = torment.worker(url=proxy.url), torment.worker()
    await torment.manned(2)
    publisher = torment.publisher(0, 600, 5)
    for worker in (lonely, other):
        await torment.works(worker)
    proxy.blackhole(way)
    await torment.until(lambda: publisher.poll() == 0, 60, "the publisher ends")
    took = await torment.drained(30)
    verdict = await torment.verdict()
    assert not verdict.lost, verdict
    assert not verdict.disorder, verdict
    assert verdict.extra_starts <= 2 * torment.concurrency, verdict
    assert took < 5 * torment.lease + 5, torment.log_tail(60)
    proxy.heal()
    back_at = time.monotonic()
    torment.publisher(600, 600, 5)
    await torment.works(lonely, since=back_at)
    await torment.until(lambda: torment.ledger.count("ACK") == 1200, 30, "all is published")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert not verdict.lost, verdict
    assert not verdict.overlaps, verdict


@pytest.mark.soak
@pytest.mark.timeout(90)
async def test_a_worker_that_is_cut_off_again_and_again_does_no_harm(torment: Rig, proxy: Proxy) -> None:
    """Row 31: ten flaps, some shorter and some longer than a lease."""
    torment.worker()
    torment.worker(url=proxy.url)
    await torment.declared("plain", "ordered")
    publishers = [torment.publisher(start, 2_000, 5) for start in (0, 2_000)]
    for flap in range(10):
        await torment.more_ends(20)
        proxy.blackhole()
        if flap % 3 == 0:
            proxy.kill()
        until = time.monotonic() + (0.2, 0.5, 1.2)[flap % 3] * torment.lease
        await torment.until(lambda: time.monotonic() > until, 10, "time passes")  # noqa: B023 - awaited in this turn
        proxy.heal()
    await torment.until(lambda: all(p.poll() == 0 for p in publishers), 60, "the publishers end")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted == 4_000, verdict
    assert not verdict.lost, verdict
    assert not verdict.overlaps, verdict
    assert not verdict.disorder, verdict
    assert verdict.extra_starts <= 10 * 2 * torment.concurrency, verdict


@pytest.mark.timeout(60)
async def test_a_slow_network_only_slows(torment: Rig, proxy: Proxy) -> None:
    proxy.delay(0.02)
    torment.worker(url=proxy.url)
    publisher = torment.publisher(0, 200, 20, url=proxy.url)
    await torment.until(lambda: publisher.poll() == 0, 40, "the publisher ends")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted == 200, verdict
    assert not verdict.lost, verdict
    assert verdict.extra_starts == 0, verdict


@pytest.mark.timeout(60)
async def test_half_a_connection_is_none(torment: Rig, proxy: Proxy) -> None:
    """The server's end, or the client's, is closed while the other stays open."""
    torment.worker(url=proxy.url)
    await torment.declared("plain", "ordered")
    publisher = torment.publisher(0, 400, 5)
    for way in WAYS:
        await torment.more_ends(100)
        proxy.half_close(way)
    await torment.until(lambda: publisher.poll() == 0, 40, "the publisher ends")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted == 400, verdict
    assert not verdict.lost, verdict
    assert verdict.extra_starts <= 2 * 2 * torment.concurrency, verdict
