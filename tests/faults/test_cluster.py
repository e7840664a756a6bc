"""Slots move and servers die while events flow through a cluster.  FAULTS C, D."""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis.crc import key_slot

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig, rig
from rig_events import Happened

from postbus import Bus, PublishFailed, PublishUnknown, Retry, event
from redis_servers import Cluster, clustered, until

TOPIC = "{postbus/rig.thing}:s"
REGISTRY = "{postbus}:registry"
RESUMED = 10.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with clustered() as made:
        yield made


@pytest.fixture
def torment(cluster: Cluster, tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, f"{cluster.url}?timeout=2", pause=0.02) as made:
        yield made


def slot_of(key: str) -> int:
    return int(key_slot(key.encode()))


@pytest.mark.soak
@pytest.mark.timeout(90)
async def test_slots_that_move_lose_nothing(torment: Rig, cluster: Cluster) -> None:
    """The topic's and the registry's, in turns, with a while of being nowhere; no worker is restarted for it."""
    workers = [torment.worker(), torment.worker()]
    publishers = [torment.publisher(start, 2_000, 5) for start in (0, 2_000)]
    for turn in range(6):
        await torment.more_ends(100)
        slot = slot_of(TOPIC if turn % 3 else REGISTRY)
        to = (cluster.owner(slot) + 1) % 3
        was = cluster.begin_to_move(slot, to)
        await asyncio.sleep(0.1)  # some requests meet a slot that is on its way: that is the case
        while cluster.move_keys(slot, was, to, 2):  # noqa: ASYNC110 - the loop turns between the pieces
            await asyncio.sleep(0)
        cluster.end_move(slot, to)
    await torment.until(lambda: all(p.poll() == 0 for p in publishers), 60, "the publishers end")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted == 4_000, verdict
    assert not verdict.lost, verdict
    assert not verdict.unexpected, verdict
    assert not verdict.overlaps, verdict
    assert not verdict.disorder, verdict
    assert verdict.extra_starts == 0, verdict
    assert all(worker.poll() is None for worker in workers)


@pytest.mark.soak
@pytest.mark.timeout(90)
async def test_a_server_of_a_cluster_that_dies_is_replaced_by_its_replica(tmp_path: Path) -> None:
    """The replica has it all, but none of the scripts."""
    with clustered(replica_for=TOPIC, durable=True) as cluster, rig(tmp_path, f"{cluster.url}?timeout=1") as torment:
        first = torment.publisher(0, 3_000)
        await torment.until(lambda: first.poll() == 0, 60, "the publisher ends")
        workers = [torment.worker(), torment.worker()]
        await torment.more_ends(200)
        dead = cluster.owner(slot_of(TOPIC))
        until(lambda: in_sync(cluster, dead))
        async with Bus(torment.url, declare=False, publish_timeout=1) as bus:
            cluster.servers[dead].kill()
            down_at = time.monotonic()
            late = await published(torment, bus)
        await torment.until(lambda: ended(torment, late), down_at + RESUMED - time.monotonic(), "work goes on")
        second = torment.publisher(10_000, 1_000)
        await torment.until(lambda: second.poll() == 0, 60, "the publisher ends")
        await torment.drained(30)
        verdict = await torment.verdict()
        assert verdict.accepted == 4_001, verdict
        assert not verdict.lost, verdict
        assert not verdict.disorder, verdict
        assert all(worker.poll() is None for worker in workers), "no worker was restarted for it"


def in_sync(cluster: Cluster, primary: int) -> bool:
    about = cluster.asked(primary, "INFO", "replication").decode()
    replica = re.search(r"slave0:.*offset=(\d+)", about)
    own = re.search(r"master_repl_offset:(\d+)", about)
    return replica is not None and own is not None and int(own[1]) - int(replica[1]) == 0


async def published(torment: Rig, bus: Bus) -> UUID:
    """Publish one event, as often as it takes, always with the same id."""
    event_id = uuid4()
    torment.ledger.note("INTENT", event_id, key="late", number=5_000)
    while True:
        try:
            await bus.publish(Happened(5_000, "late"), id=event_id)
        except (PublishFailed, PublishUnknown):
            await asyncio.sleep(0.05)
        else:
            torment.ledger.note("ACK", event_id, key="late", number=5_000)
            return event_id


def ended(torment: Rig, event_id: UUID) -> bool:
    return any(entry.kind == "END" and entry.id == str(event_id) for entry in torment.ledger.entries())


def many_topics(cluster: Cluster, namespace: str) -> tuple[Bus, list[type]]:
    """A bus with thirty topics, of which each has a subscriber, and one for all of them."""
    bus = Bus(f"{cluster.url}?timeout=3", namespace=namespace)
    kinds = []
    for n in range(30):
        kind: type = event(f"many{n}.thing.happened", key="key")(type(f"Many{n}", (Happened,), {}))
        kinds.append(kind)
        bus.add_subscriber(_nothing, kind, name=f"of-{n}", retry=Retry(attempts=2, delay=0.01))
    return bus, kinds


async def _nothing(_happened: Happened) -> None:
    """The event is all there is."""


@pytest.mark.soak
@pytest.mark.timeout(180)
async def test_one_topic_in_several_logs_loses_nothing_and_keeps_its_order(torment: Rig, cluster: Cluster) -> None:
    """Workers are killed, and a slot of one of its logs moves."""
    torment.env["RIG_PARTITIONS"] = "6"
    publishers = [torment.publisher(start, 1500) for start in (0, 1500)]
    workers = [torment.worker(), torment.worker()]
    luck = random.Random(6)
    for _ in range(6):
        await torment.more_ends(150)
        victims = [pid for worker in workers for pid in torment.running_pids(worker)]
        if victims:
            torment.kill(luck.choice(victims))
    logs = [f"{{postbus/rig.thing#{number}}}:s" for number in range(6)]
    assert len({cluster.owner(key_slot(log.encode())) for log in logs}) == 3
    slot = key_slot(logs[0].encode())
    to = (cluster.owner(slot) + 1) % 3
    was = cluster.begin_to_move(slot, to)
    while cluster.move_keys(slot, was, to):
        pass
    cluster.end_move(slot, to)
    await torment.until(lambda: all(p.poll() == 0 for p in publishers), 90, "the publishers end")
    await torment.drained(60)
    verdict = await torment.verdict()
    assert verdict.accepted == 3000, verdict
    assert not verdict.lost, verdict
    assert not verdict.unexpected, verdict
    assert not verdict.overlaps, verdict
    assert not verdict.disorder, verdict
    assert verdict.extra_starts <= 6 * 2 * torment.concurrency, verdict


async def test_thirty_topics_share_a_connection_to_each_server_and_ring_at_once(cluster: Cluster) -> None:
    """One for requests, one for the bell, one for leases, to each of three servers, and no more."""
    bus, kinds = many_topics(cluster, "many")
    seen: dict[str, float] = defaultdict(float)
    news = asyncio.Event()

    @bus.subscriber("*.thing.happened", name="all", concurrency=50)
    async def all_of_them(happened: Happened) -> None:
        seen[happened.key] = time.monotonic()
        news.set()

    async def heard(count: int) -> None:
        async with asyncio.timeout(20):
            while len(seen) < count:
                news.clear()
                await news.wait()

    def clients() -> list[int]:
        lists = [cluster.asked(n, "CLIENT", "LIST", "TYPE", kind) for n in range(3) for kind in ("NORMAL", "PUBSUB")]
        both = [lists[n] + lists[n + 1] for n in (0, 2, 4)]
        return [sum(b"cmd=client" not in row for row in text.splitlines()) for text in both]

    before = clients()
    async with bus, bus.worker():
        await bus.publish_many([kind(n, f"first {n}") for n, kind in enumerate(kinds)])
        await heard(30)
        await asyncio.sleep(1.0)  # the doorbell has heard of the new topics by then
        sent: dict[str, float] = {}
        for n, kind in enumerate(kinds):
            sent[f"second {n}"] = time.monotonic()
            await bus.publish(kind(n, f"second {n}"))
        await heard(60)
        late = [key for key, at in sent.items() if seen[key] - at > 2.5]
        assert late == [], "a bell that did not ring costs up to five seconds"
        assert all(now - was <= 3 for was, now in zip(before, clients(), strict=True))
    assert len({cluster.owner(slot_of(f"{{many/many{n}.thing}}:s")) for n in range(30)}) == 3


async def test_all_keys_of_a_topic_are_in_one_slot(cluster: Cluster) -> None:
    """Row 43: those that scripts name themselves too."""
    bus = Bus(cluster.url, namespace="slots", retain=60)

    @bus.subscriber(Happened, name="fails", ordered=True, on_bury="park", retry=Retry(attempts=2, delay=0.01))
    async def fails(happened: Happened) -> None:
        if happened.number < 3:
            raise ValueError("not this one")

    async with bus:
        await bus.publish_many([Happened(n, f"k{n % 2}") for n in range(8)])
        await bus.publish(Happened(10), id=uuid4())
        await bus.drain()
        await bus.publish(Happened(9), delay=60)
        keys = [key.decode() for n in range(3) for key in cluster.asked(n, "KEYS", "{slots*")]
    tags = {key.partition("}")[0] for key in keys}
    assert tags == {"{slots", "{slots/rig.thing"}
    assert len(keys) > 10
    for tag in tags:
        assert len({slot_of(key) for key in keys if key.partition("}")[0] == tag}) == 1
