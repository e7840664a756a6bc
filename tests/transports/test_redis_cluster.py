"""A cluster of three passes the suite, and stays one while slots move and servers die."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from redis.crc import key_slot
from redis_ground import claim, declare, opened, sealed
from redis_halves import ByHand, ByItsOwnClock

from postbus.delivery import Ack
from postbus.transport import Outgoing, Settled
from redis_servers import Cluster, OldestNode, clustered, oldest

__all__ = ["TestCluster", "TestClusterByItsOwnClock"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with clustered() as made:
        yield made


@pytest.mark.once
class TestCluster(ByHand):
    @pytest.fixture(autouse=True)
    def _place(self, cluster: Cluster) -> None:
        self.url = cluster.url


@pytest.mark.once
class TestClusterByItsOwnClock(ByItsOwnClock):
    @pytest.fixture(autouse=True)
    def _place(self, cluster: Cluster) -> None:
        self.url = cluster.url


async def test_on_redis_6_2_a_bell_is_heard_through_the_whole_cluster() -> None:
    """Sharded pub/sub came with 7: without it each server tells all others."""
    oldest()  # or skip
    with clustered(of=OldestNode()) as made:
        async with opened(made.url) as worker, opened(made.url) as publisher:
            await declare(worker)
            topics = [f"orders.t{number}" for number in range(6)]
            sent = [sealed("k", f"{topic}.placed") for topic in topics]
            await worker.wait(["receipts"], 5)  # listening begins
            for envelope in sent:
                ringing = asyncio.create_task(worker.wait(["receipts"], 30))
                await publisher.append([Outgoing(envelope)])
                async with asyncio.timeout(10):
                    assert await ringing == {"receipts"}
                (found,) = await claim(worker)
                assert found.envelope == envelope
                assert isinstance((await worker.settle([(found, Ack())]))[0], Settled)
        assert len({made.owner(key_slot(f"{{postbus/{topic}}}".encode())) for topic in topics}) > 1
