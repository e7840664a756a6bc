"""redis-py on one stream and one group, no checks: what a bus on Redis Streams cannot beat with that client.

An event is encoded into an envelope, as ours is, and the whole is one field.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from redis.asyncio import Redis

from postbus.envelope import new_id

from ..child import ask, start
from ..load import NAME, OrderPlaced, Ping, decode, encode, latencies, order, pace, ping, rate, timed_async
from ..task import Measure, Task

_STREAM, _GROUP, _CONSUMER = "orders", "receipts", "one"
_BATCH = 100
_ADD = "local k = KEYS[1] for i = 1, #ARGV do redis.call('XADD', k, '*', 'd', ARGV[i]) end return #ARGV"


class Sealed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An envelope, of the size of ours."""

    id: bytes
    name: str
    key: str
    micros: int
    body: bytes


_seal = msgspec.msgpack.Encoder().encode
_open = msgspec.msgpack.Decoder(Sealed).decode


def sealed(event: OrderPlaced) -> bytes:
    """Its bytes in the stream."""
    return _seal(Sealed(new_id(), NAME, event.order_id, time.time_ns() // 1000, encode(event)))


def publish_many(task: Task) -> Measure:
    """One EVALSHA of as many XADD for each batch."""

    async def main() -> Measure:
        async with _redis(task) as redis:
            batches = _Batches(await redis.script_load(_ADD), task.number("batch"))
            return await timed_async(lambda count: batches.add(redis, count), task.events)

    return asyncio.run(main())


def publish(task: Task) -> Measure:
    """So many coroutines, each awaiting one XADD after the other."""

    async def main() -> Measure:
        publishers, placed = task.number("publishers"), order()
        async with _redis(task) as redis:

            async def publisher(count: int) -> None:
                for _ in range(count):
                    await redis.xadd(_STREAM, {b"d": sealed(placed)})

            async def loop(count: int) -> None:
                await asyncio.gather(*(publisher(count // publishers) for _ in range(publishers)))

            return await timed_async(loop, task.events)

    return asyncio.run(main())


def drain(task: Task) -> Measure:
    """XREADGROUP of a batch, together with the XACK of the one before."""

    async def main() -> Measure:
        async with _redis(task) as redis:
            await _Batches(await redis.script_load(_ADD), 1000).add(redis, task.events)
            await redis.xgroup_create(_STREAM, _GROUP, "0")
            begun = time.perf_counter()
            await _work(redis, task.events)
            return rate(task.events, time.perf_counter() - begun)

    return asyncio.run(main())


def both(task: Task) -> Measure:
    """`publish_many` in another process and `drain` in this one, at once."""

    async def main() -> Measure:
        async with _redis(task) as redis:
            await redis.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)
            sender = start(task.other(f"{__name__}:send_many"))
            await _work(redis, task.events)
            ended = time.monotonic()
            said = await asyncio.to_thread(ask, sender, 10)
            assert said.measure is not None, said.error
            return rate(task.events, ended - said.measure["began"])

    return asyncio.run(main())


def send_many(task: Task) -> Measure:
    """The publisher process of `both`."""

    async def main() -> Measure:
        async with _redis(task) as redis:
            batches = _Batches(await redis.script_load(_ADD), _BATCH)
            began = time.monotonic()
            await batches.add(redis, task.events)
            return {"began": began}

    return asyncio.run(main())


def latency(task: Task) -> Measure:
    """A publisher process at a steady rate, and a blocking XREADGROUP here, which acknowledges at once."""

    async def main() -> list[float]:
        spans: list[float] = []
        async with _redis(task) as redis:
            await redis.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)
            sender = start(task.other(f"{__name__}:send"))
            while len(spans) < task.events:
                entries = await redis.xreadgroup(_GROUP, _CONSUMER, {_STREAM: ">"}, count=_BATCH, block=1000)
                for _, fields in _entries(entries):
                    spans.append((time.monotonic_ns() - ping(_open(fields[b"d"]).body).sent_ns) / 1e9)
                if entries:
                    await redis.xack(_STREAM, _GROUP, *(entry for entry, _ in _entries(entries)))
            await asyncio.to_thread(ask, sender, 10)
        return spans

    return latencies(asyncio.run(main()))


def send(task: Task) -> Measure:
    """The publisher process of `latency`."""

    async def main() -> None:
        async with _redis(task) as redis:

            async def one() -> None:
                body = encode(Ping(time.monotonic_ns()))
                packed = _seal(Sealed(new_id(), "bench.ping.sent", "", time.time_ns() // 1000, body))
                await redis.xadd(_STREAM, {b"d": packed})

            await pace(one, task.events, task.number("per_second"))

    asyncio.run(main())
    return {}


def memory(task: Task) -> Measure:
    """A stream of these entries, and one group."""

    async def main() -> Measure:
        async with _redis(task) as redis:
            await redis.xgroup_create(_STREAM, _GROUP, "0", mkstream=True)
            before = await used(redis)
            await _Batches(await redis.script_load(_ADD), _BATCH).add(redis, task.events)
            return {"bytes an event": (await used(redis) - before) / task.events}

    return asyncio.run(main())


async def used(redis: Redis) -> int:
    """Bytes that the server's data takes."""
    return int((await redis.info("memory"))["used_memory"])


class _Batches:
    def __init__(self, sha: str, size: int) -> None:
        self._sha = sha
        self._placed = [order()] * size

    async def add(self, redis: Redis, count: int) -> None:
        placed = self._placed
        for _ in range(count // len(placed)):
            await redis.evalsha(self._sha, 1, _STREAM, *(sealed(event) for event in placed))


async def _work(redis: Redis, count: int) -> None:
    async def subscriber(event: OrderPlaced) -> None:
        pass

    done: list[bytes] = []
    left = count
    while left or done:
        async with redis.pipeline(transaction=False) as pipe:
            if done:
                pipe.xack(_STREAM, _GROUP, *done)
            pipe.xreadgroup(_GROUP, _CONSUMER, {_STREAM: ">"}, count=_BATCH, block=100 if left else None)
            entries = _entries((await pipe.execute())[-1])
        for _, fields in entries:
            await subscriber(decode(_open(fields[b"d"]).body))
        done = [entry for entry, _ in entries]
        left -= len(done)


def _entries(reply: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return reply[0][1] if reply else []


def _redis(task: Task) -> Redis:
    return Redis.from_url(task.text("url"), protocol=2)
