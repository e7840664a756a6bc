"""The primary dies or freezes while workers run; sentinels put its replica in its place.  FAULTS D."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig, rig
from rig_events import Happened

from postbus import Bus, PublishFailed, PublishUnknown
from redis_servers import Watched, watched

# FAULTS 40: work goes on within so many seconds of the primary's end.
RESUMED = 10.0


@pytest.fixture
def place() -> Iterator[Watched]:
    with watched(durable=True) as made:
        yield made


@pytest.fixture
def torment(place: Watched, tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path, f"{place.url}&timeout=1") as made:
        yield made


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


@pytest.mark.soak
@pytest.mark.timeout(90)
async def test_a_fail_over_in_the_middle_of_publishing_loses_nothing_that_a_replica_confirmed(
    torment: Rig, place: Watched
) -> None:
    """Row 39 and 40 together: `wait_replicas=1`, and the primary is killed while it answers."""
    url = f"{torment.url}&wait_replicas=1"
    publishers = [torment.publisher(start, 1_500, 10, url=url) for start in (0, 1_500)]
    torment.worker()
    await torment.more_ends(200)
    old = place.primary()
    old.kill()
    await torment.until(lambda: place.primary() is not old, 20, "the replica is the primary")
    old.start()
    await torment.until(lambda: all(p.poll() == 0 for p in publishers), 60, "the publishers end")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert verdict.accepted > 1_500, verdict
    assert not verdict.lost, verdict
    assert not verdict.unexpected, verdict


@pytest.mark.soak
@pytest.mark.timeout(90)
@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_fail_over_loses_nothing_that_the_replica_had(torment: Rig, place: Watched, fault: str) -> None:
    """Row 40: workers drain a backlog meanwhile; then the old primary comes back, as a replica."""
    first = torment.publisher(0, 3_000)
    await torment.until(lambda: first.poll() == 0, 60, "the publisher ends")
    await torment.until(place.in_sync, 10, "the replica has it all")
    workers = [torment.worker(), torment.worker()]
    await torment.more_ends(200)
    old = place.primary()
    async with Bus(torment.url, declare=False, publish_timeout=1) as bus:
        if fault == "killed":
            old.kill()
        else:
            old.pause()
        down_at = time.monotonic()
        late = await published(torment, bus)
    await torment.until(lambda: ended(torment, late), down_at + RESUMED - time.monotonic(), "work goes on")
    if fault == "killed":
        old.start()
    else:
        old.resume()
    second = torment.publisher(10_000, 2_000)
    await torment.until(lambda: second.poll() == 0, 60, "the publisher ends")
    await torment.drained(30)
    verdict = await torment.verdict()
    assert place.primary() is not old
    assert verdict.accepted >= 3_001 + 1_000, verdict
    assert not verdict.lost, verdict
    assert not verdict.unexpected, verdict
    assert not verdict.disorder, verdict
    assert all(worker.poll() is None for worker in workers), "no worker was restarted for it"
