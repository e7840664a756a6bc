"""`postbus bench`: what this machine and a transport do, measured here and now.

A figure is a median of rounds, and says nothing of other machines.  The project's own table is made by benchmarks/.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import click

from ..bus import Bus
from ..errors import PublishFailed
from ..event import RawEvent
from ..failure import redacted
from ..logs import Logs
from .given import Span, as_json
from .output import Table, print_json, say

__all__ = ["bench"]

NAME = "bench.thing.done"
_MANY = 100
_PUBLISHERS = 20


@click.command()
@click.option("--url", help="The transport; default a SQLite file in a temporary folder.")
@click.option("--seconds", type=Span(), default=1.0, show_default=True, help="How long each round takes.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--size", type=click.IntRange(0, 1_000_000), default=100, show_default=True, help="Bytes of the payload.")
@as_json
def bench(*, url: str | None, seconds: float, rounds: int, size: int, as_json: bool) -> None:
    """Measure this machine and a transport: publish and drain, in one process.

    It uses a namespace of its own, and retires its subscription when it ends.
    """
    Logs(level="error").configure(redacted)
    with tempfile.TemporaryDirectory(prefix="postbus-bench-") as folder:
        where = url or f"sqlite:///{Path(folder) / 'bench.db'}"
        rows = asyncio.run(_Bench(where, max(0.05, seconds), rounds, size).run())
    if as_json:
        print_json({"seconds": seconds, "rounds": rounds, "size": size, "events_per_second": rows})
        return
    table = Table(["what", ">events/s", ">least", ">most"], wide=80)
    for what, rates in rows.items():
        table.add(what, *(round(rate) for rate in (statistics.median(rates), min(rates), max(rates))))
    table.show()
    say(f"Medians of {rounds} rounds of {seconds:g} s, {size} bytes each, on this machine, now.")


class _Bench:
    """One bus, measured in several ways, one after the other in each round."""

    def __init__(self, url: str, seconds: float, rounds: int, size: int) -> None:
        self._seconds = seconds
        self._rounds = rounds
        self._event = RawEvent(NAME, {"text": "x" * size})
        self._bus = Bus(url, namespace=f"bench-{uuid4().hex[:8]}")
        self._bus.add_subscriber(self._take, NAME, name="bench", concurrency=_MANY)
        self._taken = 0

    async def _take(self, _event: RawEvent) -> None:
        self._taken += 1

    async def run(self) -> dict[str, list[float]]:
        """Return rates by what was measured."""
        ways: dict[str, Callable[[], Awaitable[float]]] = {
            "publish, one by one": self._one_by_one,
            f"publish, {_PUBLISHERS} at once": self._at_once,
            f"publish_many({_MANY})": self._many,
        }
        drained = f"drain, one worker, concurrency {_MANY}"
        rates: dict[str, list[float]] = {what: [] for what in (*ways, drained)}
        async with self._bus:
            try:
                for _ in range(self._rounds):
                    for what, way in ways.items():
                        rates[what].append(await way())
                        rates[drained].append(await self._drain())
            finally:
                await self._bus.subscriptions.retire("bench")
        return rates

    async def _one_by_one(self) -> float:
        return await self._publishing(lambda: self._bus.publish(self._event), 1)

    async def _many_at_once(self) -> None:
        await asyncio.gather(*(self._bus.publish(self._event) for _ in range(_PUBLISHERS)))

    async def _at_once(self) -> float:
        return await self._publishing(self._many_at_once, _PUBLISHERS)

    async def _many(self) -> float:
        return await self._publishing(lambda: self._bus.publish_many([self._event] * _MANY), _MANY)

    async def _publishing(self, publish: Callable[[], Awaitable[object]], size: int) -> float:
        began, count = time.perf_counter(), 0
        with suppress(PublishFailed):  # a bound in memory is the end of the round
            while time.perf_counter() - began < self._seconds:
                await publish()
                count += size
        return count / (time.perf_counter() - began)

    async def _drain(self) -> float:
        """What was published is worked off, all of it."""
        self._taken, began = 0, time.perf_counter()
        await self._bus.drain(timeout=600)
        return self._taken / (time.perf_counter() - began)
