"""Two releases work on one Redis, and the newer one is taken back: nothing is lost.  FAULTS 15."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig, rig

from server_kinds import RedisKind
from servers import own


@pytest.fixture
def torment(tmp_path: Path) -> Iterator[Rig]:
    for server in own(RedisKind()):
        with rig(tmp_path, server.url) as made:
            yield made


def release(torment: Rig, name: str) -> Rig:
    """Whatever is started next is of this release."""
    torment.env["RIG_RELEASE"] = name
    return torment


async def ended(process: subprocess.Popen[bytes]) -> int:
    """How it ended."""
    return await asyncio.to_thread(process.wait, 60)


@pytest.mark.timeout(120)
async def test_two_releases_beside_each_other_and_a_step_back_lose_nothing(torment: Rig) -> None:
    """What only tomorrow's can read waits for tomorrow's, costs no attempt, and holds up nothing of today's."""
    today, each = release(torment, "today").worker(), 300
    await torment.declared("plain", "ordered")
    old = torment.publisher(0, each)
    tomorrow = release(torment, "tomorrow").worker()
    new = torment.publisher(each, each)
    assert [await ended(publisher) for publisher in (old, new)] == [0, 0]
    await torment.drained(40)

    tomorrow.send_signal(signal.SIGTERM)  # a step back: nobody can read what it left
    assert await ended(tomorrow) == 0
    left = torment.publisher(2 * each, 20)
    still = release(torment, "today").publisher(2 * each + 20, each)
    assert [await ended(publisher) for publisher in (left, still)] == [0, 0]
    await torment.until(lambda: torment.ledger.count("END") == 2 * 3 * each, 40, "today's own are all handled")
    async with torment.bus() as bus:
        stats = await bus.stats()
        assert {name: one.dead for name, one in stats.items()} == {"plain": 0, "ordered": 0}
        kept = [one.backlog + one.in_flight + one.retrying for one in stats.values()]
        assert kept == [20, 20]

    release(torment, "tomorrow").worker()
    await torment.drained(40)
    assert today.poll() is None
    verdict = await torment.verdict()
    assert verdict.accepted == 3 * each + 20, verdict
    assert not verdict.lost, verdict
    assert not verdict.unexpected, verdict
    assert not verdict.disorder, verdict
    assert verdict.extra_starts == 0, verdict
    assert set(verdict.attempts.values()) == {1}, verdict
