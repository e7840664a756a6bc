"""What somebody else removes from Redis is counted, and holds nobody up.  FAULTS 38."""

from __future__ import annotations

import asyncio

import pytest
import redis
from redis_ground import BOOM, STREAM, claim, declare, keys, publish

from postbus.delivery import Ack, Bury, Requeue
from postbus.errors import LeaseLost
from postbus.transport import DeadQuery, Settled
from postbus.transports.redis import RedisTransport

OWN = "{postbus/orders.order}:1"


async def trimmed(transport: RedisTransport) -> int:
    return (await transport.stats())[0].trimmed


@pytest.mark.parametrize("read", [0, 5, 15])
async def test_what_was_never_read_is_counted(transport: RedisTransport, admin: redis.Redis, read: int) -> None:
    await declare(transport)
    await publish(transport, *(f"k{n}" for n in range(20)))
    if read:
        taken = (await transport.claim("receipts", owner="a", limit=read, lease=30)).deliveries
        await transport.settle([(delivery, Ack()) for delivery in taken])
    admin.xtrim(STREAM, maxlen=10, approximate=False)
    assert await trimmed(transport) == max(0, 10 - read)
    rest = await claim(transport)
    assert keys(rest) == [f"k{n}" for n in range(max(10, read), 20)]
    await transport.settle([(delivery, Ack()) for delivery in rest])
    assert await trimmed(transport) == max(0, 10 - read)


async def test_single_entries_deleted_unread_are_counted(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await publish(transport, *(f"k{n}" for n in range(20)))
    for entry, _ in admin.xrange(STREAM)[3:19:4]:
        admin.xdel(STREAM, entry)
    assert len(await claim(transport)) == 16
    assert await trimmed(transport) == 4


async def test_a_stream_emptied_and_filled_again_is_counted(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await publish(transport, *"abc")
    admin.xtrim(STREAM, maxlen=0, approximate=False)
    await publish(transport, *"de")
    assert keys(await claim(transport)) == ["d", "e"]
    assert await trimmed(transport) == 3


async def test_what_ran_when_it_was_removed_is_settled_as_ever(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await publish(transport, "acked", "requeued", "buried")
    acked, requeued, buried = await claim(transport)
    admin.xtrim(STREAM, maxlen=0, approximate=False)
    results = await transport.settle([(acked, Ack()), (requeued, Requeue(0, BOOM)), (buried, Bury("enough", BOOM))])
    assert [type(result) for result in results] == [Settled] * 3
    (again,) = await claim(transport, owner="b")
    assert (again.envelope, again.attempt) == (requeued.envelope, 2)
    (letter,) = await transport.dead("receipts", DeadQuery())
    assert letter.envelope == buried.envelope
    assert await trimmed(transport) == 0


async def test_what_runs_long_keeps_its_lease_and_its_event(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await publish(transport, "acked", "requeued", "lost")
    held = await claim(transport, lease=0.4)
    admin.xtrim(STREAM, maxlen=0, approximate=False)
    renewer = transport.renewer()
    try:
        for _ in range(6):
            assert await asyncio.to_thread(renewer.renew, held[:2], 0.4) == []
            await asyncio.sleep(0.1)
            assert await claim(transport, owner="b") == []
    finally:
        renewer.close()
    acked, requeued, lost = held
    results = await transport.settle([(acked, Ack()), (requeued, Requeue(0, BOOM)), (lost, Ack())])
    assert [type(result) for result in results] == [Settled, Settled, LeaseLost]
    (again,) = await claim(transport, owner="b")
    assert again.envelope == requeued.envelope
    assert await trimmed(transport) == 1


async def test_what_a_dead_worker_held_is_counted(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await publish(transport, *"abcde")
    await claim(transport, owner="gone", lease=0.1)
    admin.xtrim(STREAM, maxlen=2, approximate=False)
    await asyncio.sleep(0.15)
    found = await transport.claim("receipts", owner="b", limit=10, lease=30)
    assert (list(found.deliveries), found.suspects) == ([], True)
    assert await trimmed(transport) == 3
    alone = [await claim(transport, owner="b", alone=True) for _ in range(3)]
    assert [keys(some) for some in alone] == [["d"], ["e"], []]


async def test_a_key_held_by_what_is_gone_goes_on(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport, ordered=True)
    await publish(transport, "k", "l")
    (first, _) = await claim(transport, owner="gone", lease=0.1)
    admin.xtrim(STREAM, maxlen=0, approximate=False)
    await publish(transport, "k", "k")
    assert await claim(transport, owner="b") == []
    await asyncio.sleep(0.15)
    for _ in range(2):
        async with asyncio.timeout(5):
            while not (found := await claim(transport, owner="b")):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
        assert keys(found) == ["k"]
        await transport.settle([(delivery, Ack()) for delivery in found])
    assert [type(result) for result in await transport.settle([(first, Ack())])] == [LeaseLost]
    assert admin.hlen(f"{OWN}:t") == 0
    assert await trimmed(transport) == 2


async def test_a_key_parked_by_a_dead_letter_stays_parked_meanwhile(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    await declare(transport, ordered=True, on_bury="park")
    await publish(transport, "parked", "gone", "parked")
    parked, _ = await claim(transport, lease=0.2)
    await transport.settle([(parked, Bury("enough", BOOM))])
    admin.xtrim(STREAM, maxlen=0, approximate=False)
    await asyncio.sleep(0.25)
    for _ in range(3):
        assert await claim(transport, owner="b") == []
    (letter,) = await transport.dead("receipts", DeadQuery())
    assert await transport.replay("receipts", [letter.id]) == 1
    (again,) = await claim(transport, owner="b")
    assert again.envelope == parked.envelope


async def test_what_the_server_lets_go_of_itself_is_not_counted(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await declare(transport, "slow")
    for _ in range(5):
        await publish(transport, *(f"k{n}" for n in range(40)))
        for name in ("receipts", "slow"):
            found = await claim(transport, name)
            await transport.settle([(found[0], Requeue(0, BOOM)), *((one, Ack()) for one in found[1:])])
            again = await claim(transport, name)
            await transport.settle([(one, Ack()) for one in again])
        await transport._trimming.trim(["orders.order"], least=0, exact=True)
    assert admin.xlen(STREAM) == 0
    assert [one.trimmed for one in await transport.stats()] == [0, 0]
