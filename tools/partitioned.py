"""Measures what partitions cost on one server, and how they spread over a cluster: `python -m tools.partitioned`.

One process publishes in batches and then drains with as many runs at once, in turns with a topic of one log and of
several.  Prints events a second, and what an event costs each server of its core, the busiest first.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from postbus import Bus, event

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # it is no package

from redis_servers import clustered
from server_kinds import RedisKind
from servers import Server

COUNT, ROUNDS, KEYS = 40_000, 3, 10_000
BATCHES = (100, 1000)
ALONE, SPREAD = (1, 4, 16), (1, 6, 24)


@dataclass(frozen=True, slots=True)
class Taken:
    """What one round took: seconds, and of each server's core, to publish and to drain."""

    publish: float
    drain: float
    append: Sequence[float]
    settle: Sequence[float]


def placed(partitions: int) -> type[Any]:
    """An event's class, of a topic of so many partitions."""

    @event("orders.order.placed", key="order_id", partitions=partitions)
    @dataclass(frozen=True)
    class Placed:
        order_id: str
        text: str = "x" * 200

    return Placed


async def take(url: str, servers: Sequence[Server], partitions: int, *, ordered: bool, batch: int) -> Taken:
    """One round, in a namespace of its own."""
    kind = placed(partitions)
    bus = Bus(url, namespace=f"p{uuid4().hex[:8]}")

    @bus.subscriber(kind, name="receipts", concurrency=batch, ordered=ordered)
    async def receipts(_: Any) -> None: ...

    async with bus:
        await bus.publish_many([kind(f"o-{n}") for n in range(partitions * 8)])  # the logs are made
        await bus.drain(timeout=60)
        before, began = cores(servers), time.perf_counter()
        for start in range(0, COUNT, batch):
            await bus.publish_many([kind(f"o-{n % KEYS}") for n in range(start, start + batch)])
        between, published = cores(servers), time.perf_counter()
        await bus.drain(timeout=120)
        after, drained = cores(servers), time.perf_counter()
        assert (await bus.stats())["receipts"].backlog == 0
    # In another namespace, topics lie on other servers: what is compared is the busiest of each round.
    append = sorted((b - a for a, b in zip(before, between, strict=True)), reverse=True)
    settle = sorted((b - a for a, b in zip(between, after, strict=True)), reverse=True)
    return Taken(published - began, drained - published, append, settle)


def cores(servers: Sequence[Server]) -> list[float]:
    """Seconds that each has had of a core."""
    times = [psutil.Process(server.pid).cpu_times() for server in servers]
    return [one.user + one.system for one in times]


async def measure(
    what: str, url: str, servers: Sequence[Server], counts: Sequence[int], *, ordered: bool = False, batch: int = 100
) -> None:
    """Rounds in turns, and the median of each."""
    found: dict[int, list[Taken]] = defaultdict(list)
    for _ in range(ROUNDS):
        for partitions in counts:
            found[partitions].append(await take(url, servers, partitions, ordered=ordered, batch=batch))
    print(f"\n{what}, batches of {batch}{', ordered' if ordered else ''}")
    for partitions, rounds in found.items():
        publish, drain = (
            COUNT / statistics.median(getattr(one, part) for one in rounds) for part in ("publish", "drain")
        )
        print(
            f"  partitions={partitions:<3} {publish:8,.0f}/s published, {drain:8,.0f}/s drained",
            end="; server us/event",
        )
        for part in ("append", "settle"):
            each = [
                statistics.median(column) / COUNT * 1e6
                for column in zip(*(getattr(one, part) for one in rounds), strict=True)
            ]
            print(f"  {part} {' + '.join(f'{one:.1f}' for one in each)}", end="")
        print()


async def main() -> None:
    """Both places."""
    with Server(RedisKind()) as server:
        for ordered in (False, True):
            await measure("one server", server.url, [server], ALONE, ordered=ordered)
    with clustered() as cluster:
        for batch in BATCHES:
            await measure("a cluster of three", cluster.url, cluster.servers, SPREAD, batch=batch)


if __name__ == "__main__":
    asyncio.run(main())
