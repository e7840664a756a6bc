"""What an append stores and remembers, alone and in batches of one kind or of several."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
import redis
from redis_ground import STREAM, claim, declare, sealed

from postbus.envelope import Envelope
from postbus.transport import Append, Duplicate, Outgoing, Stored
from postbus.transports.redis import RedisTransport

IDS = "{postbus/orders.order}:i"

Kind = Callable[[], Outgoing]


def of_one_name() -> Outgoing:
    return Outgoing(sealed("k"))


def delayed() -> Outgoing:
    return Outgoing(sealed("k"), delay=60)


def named_otherwise() -> Outgoing:
    return Outgoing(sealed(None, "orders.order.shipped"))


async def append(transport: RedisTransport, items: Sequence[Outgoing]) -> list[Append]:
    return list(await transport.append(items))


@pytest.mark.parametrize("other", [of_one_name, delayed, named_otherwise])
@pytest.mark.parametrize("count", [1, 3])
async def test_what_is_repeated_is_stored_once(
    transport: RedisTransport, admin: redis.Redis, other: Kind, count: int
) -> None:
    await declare(transport)
    first = [of_one_name() for _ in range(count - 1)] + [other()]
    assert await append(transport, first) == [Stored(1)] * count
    assert await append(transport, first) == [Duplicate()] * count
    mixed = [other(), *first, of_one_name()]
    assert await append(transport, mixed) == [Stored(1), *[Duplicate()] * count, Stored(1)]
    assert await append(transport, mixed[:1]) == [Duplicate()]
    assert admin.xlen(STREAM) == count + 2


async def test_an_event_twice_in_a_batch_is_stored_once(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    one, two = of_one_name(), of_one_name()
    assert await append(transport, [one, two, one]) == [Stored(1), Stored(1), Duplicate()]
    assert admin.xlen(STREAM) == 2


async def test_events_arrive_as_they_were_whatever_came_with_them(transport: RedisTransport) -> None:
    await declare(transport)
    batches = [[of_one_name()], [of_one_name(), of_one_name()], [of_one_name(), named_otherwise()]]
    sent: list[Envelope] = []
    for batch in batches:
        await append(transport, batch)
        sent += [item.envelope for item in batch]
    assert [delivery.envelope for delivery in await claim(transport)] == sent


@pytest.mark.parametrize("count", [1, 2])
async def test_ids_are_remembered_for_eleven_minutes_after_the_last(
    transport: RedisTransport, admin: redis.Redis, count: int
) -> None:
    await declare(transport)
    await append(transport, [of_one_name() for _ in range(count)])
    ((key, goes),) = admin.zrange(IDS, 0, -1, withscores=True)
    assert admin.scard(key) == count
    assert 655 < goes / 1000 - time.time() < 675
    assert 1700 < admin.ttl(key) <= 1800
    admin.zadd(IDS, {key: goes - 20_000})  # as if nothing had come for a while
    await append(transport, [of_one_name() for _ in range(count)])
    ((_, later),) = admin.zrange(IDS, 0, -1, withscores=True)
    assert later >= goes
    admin.zadd(IDS, {"{postbus/orders.order}:i:1": 1})
    admin.sadd("{postbus/orders.order}:i:1", "old")
    admin.zadd(IDS, {key: goes - 20_000})
    await append(transport, [of_one_name() for _ in range(count)])
    assert admin.exists("{postbus/orders.order}:i:1") == 0
    assert admin.zcard(IDS) == 1
