"""The load that all contenders share: the event, its bytes, the clock around a loop, memory of this process."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from postbus import event

from .task import RATE, Measure

__all__ = [
    "NAME",
    "TOPIC",
    "OrderPlaced",
    "Ping",
    "decode",
    "encode",
    "handlers",
    "latencies",
    "order",
    "pace",
    "percentile",
    "ping",
    "rate",
    "resident",
    "timed",
    "timed_async",
]

TOPIC = "orders.order"
NAME = "orders.order.placed"


@event(NAME, key="order_id")
@dataclass(frozen=True, slots=True)
class OrderPlaced:
    """About 150 bytes as msgpack; with its envelope about 230, as in an ordinary shop."""

    order_id: str
    customer: str
    sku: str
    quantity: int
    cents: int
    note: str


@event("bench.ping.sent")
@dataclass(frozen=True, slots=True)
class Ping:
    """Carries the monotonic clock of its sending, which both processes of one machine share."""

    sent_ns: int
    note: str = "x" * 100


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(OrderPlaced).decode
ping = msgspec.msgpack.Decoder(Ping).decode


def order(number: int = 123456) -> OrderPlaced:
    """An event to publish."""
    return OrderPlaced(f"o-{number}", "customer-42@example.com", "SKU-000-111", 3, 4200, "x" * 50)


def handlers(count: int) -> list[Callable[[OrderPlaced], None]]:
    """That many different no-op functions."""

    def one() -> Callable[[OrderPlaced], None]:
        def handler(event: OrderPlaced) -> None:
            pass

        return handler

    return [one() for _ in range(count)]


def rate(events: int, seconds: float) -> Measure:
    """The usual answer."""
    return {RATE: events / seconds}


def timed(loop: Callable[[int], object], events: int) -> Measure:
    """Time `loop(events)`, after a warm-up of a tenth."""
    loop(max(1, events // 10))
    gc.collect()
    begun = time.perf_counter()
    loop(events)
    return rate(events, time.perf_counter() - begun)


async def timed_async(loop: Callable[[int], Awaitable[object]], events: int) -> Measure:
    """`timed` for a coroutine function."""
    await loop(max(1, events // 10))
    gc.collect()
    begun = time.perf_counter()
    await loop(events)
    return rate(events, time.perf_counter() - begun)


async def pace(send: Callable[[], Awaitable[object]], count: int, per_second: float) -> None:
    """Call `send` at fixed times; one that is late does not delay the next ones' times."""
    begun = time.perf_counter()
    for number in range(count):
        wait = begun + number / per_second - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        await send()


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def latencies(spans: Sequence[float]) -> Measure:
    """The usual answer where seconds from publish to start are measured; the first tenth is warm-up."""
    settled = spans[len(spans) // 10 :]
    return {"ms p50": percentile(settled, 0.5) * 1e3, "ms p99": percentile(settled, 0.99) * 1e3}


def resident() -> float:
    """MiB of memory that this process holds now (the most it ever held, where the system does not say)."""
    gc.collect()
    if sys.platform == "linux":
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
