"""What a settle brings with it: the next of each key that it frees, leased to whoever asked for it and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
import redis
from redis_ground import BOOM, STREAM, claim, declare, keys, opened, publish, sealed

from postbus import Bus, RawEvent
from postbus.delivery import Ack, Delivery, Outcome, Release, Requeue
from postbus.errors import LeaseLost
from postbus.transport import Following, Outgoing, Settle, Settled, Unknown
from postbus.transports.redis import RedisTransport
from servers import Server

LEASE = 30.0


async def follow(
    transport: RedisTransport, *pairs: tuple[Delivery, Outcome], owner: str = "a", lease: float = LEASE
) -> tuple[Sequence[Settle], list[Delivery]]:
    results, found = await transport.settle_and_follow(pairs, owner=owner, lease=lease)
    return results, list(found)


async def numbered(transport: RedisTransport, *keyed: str) -> list[str]:
    """Publish events whose ids tell them apart; return the ids in the order of append."""
    ids = []
    for key in keyed:
        envelope = sealed(key)
        await transport.append([Outgoing(envelope)])
        ids.append(str(envelope.id))
    return ids


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [str(delivery.envelope.id) for delivery in deliveries]


async def test_a_settle_brings_the_next_of_its_key(transport: RedisTransport) -> None:
    assert isinstance(transport, Following)
    await declare(transport, ordered=True)
    published = await numbered(transport, "k", "k", "k", "other")
    first, other = await claim(transport)
    seen, fences, running = ids([first]), [first.fence], first
    for _ in range(2):
        results, (running,) = await follow(transport, (running, Ack()))
        assert results == [Settled()]
        assert (running.owner, running.attempt, running.envelope.key) == ("a", 1, "k")
        seen.append(str(running.envelope.id))
        fences.append(running.fence)
    assert seen == published[:3]
    assert fences == sorted(set(fences))
    assert await follow(transport, (running, Ack()), (other, Ack())) == ([Settled(), Settled()], [])
    assert await claim(transport, owner="b") == []


async def test_what_follows_is_leased_and_nobody_else_gets_it(transport: RedisTransport) -> None:
    await declare(transport, ordered=True)
    await publish(transport, "k", "k")
    (first,) = await claim(transport)
    _, (second,) = await follow(transport, (first, Ack()), lease=0.2)
    assert await claim(transport, owner="b") == []
    assert transport.renewer().renew([second], 0.2) == []
    await asyncio.sleep(0.25)
    assert await claim(transport, owner="b") == []
    assert ids(await claim(transport, owner="b", alone=True)) == ids([second])
    ((result,), found) = await follow(transport, (second, Ack()))
    assert (type(result), found) == (LeaseLost, [])


async def test_each_of_many_keys_goes_on(transport: RedisTransport) -> None:
    await declare(transport, ordered=True)
    await publish(transport, *[f"k{n % 20}" for n in range(60)])
    held = await claim(transport)
    for _ in range(2):
        results, held = await follow(transport, *((delivery, Ack()) for delivery in held))
        assert set(results) == {Settled()}
        assert sorted(keys(held), key=str) == sorted(f"k{n}" for n in range(20))
        assert len({delivery.fence for delivery in held}) == 20


async def test_a_retry_that_waits_behind_nothing_keeps_its_attempts(transport: RedisTransport) -> None:
    await declare(transport, ordered=True)
    await publish(transport, "k", "k")
    (first,) = await claim(transport)
    assert await follow(transport, (first, Requeue(0, BOOM))) == ([Settled()], [])
    (again,) = await claim(transport)
    assert (again.attempt, ids([again])) == (2, ids([first]))
    _, (second,) = await follow(transport, (again, Ack()))
    assert second.attempt == 1


async def test_a_paused_subscription_is_given_nothing_more(transport: RedisTransport) -> None:
    await declare(transport, ordered=True)
    await publish(transport, "k", "k")
    (first,) = await claim(transport)
    await transport.pause("receipts")
    assert await follow(transport, (first, Ack())) == ([Settled()], [])
    await transport.resume("receipts")
    assert len(await claim(transport, owner="b")) == 1


async def test_what_is_not_due_does_not_follow(transport: RedisTransport) -> None:
    await declare(transport, ordered=True)
    await publish(transport, "k")
    await transport.append([Outgoing(sealed("k"), delay=0.3)])
    (first,) = await claim(transport)
    assert await follow(transport, (first, Ack())) == ([Settled()], [])
    assert await claim(transport) == []
    await asyncio.sleep(0.35)
    assert len(await claim(transport)) == 1


async def test_a_refused_settle_brings_nothing(transport: RedisTransport) -> None:
    await declare(transport, ordered=True)
    await publish(transport, "k", "k", "k")
    (first,) = await claim(transport)
    _, (second,) = await follow(transport, (first, Ack()))
    assert [type(result) for result in (await follow(transport, (first, Ack())))[0]] == [LeaseLost]
    results, found = await follow(transport, (second, Release()))
    assert (results, found) == ([Settled()], [])
    (again,) = await claim(transport, owner="b")
    assert ids([again]) == ids([second])
    assert type((await follow(transport, (second, Ack())))[0][0]) is LeaseLost
    _, (third,) = await follow(transport, (again, Ack()), owner="b")
    assert third.owner == "b"


async def test_an_unordered_subscription_is_given_nothing(transport: RedisTransport) -> None:
    await declare(transport)
    await publish(transport, "k", "k")
    (first, second) = await claim(transport)
    assert await follow(transport, (first, Ack())) == ([Settled()], [])
    assert await follow(transport, (second, Ack())) == ([Settled()], [])


async def test_what_cannot_be_read_is_buried_and_the_next_goes_on(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    await declare(transport, ordered=True)
    await publish(transport, "k")
    admin.xadd(STREAM, {"n": "orders.order.placed", "k": "k", "e": b"\xc1 is no MessagePack"})
    await publish(transport, "k")
    (first,) = await claim(transport)
    assert await follow(transport, (first, Ack())) == ([Settled()], [])
    (third,) = await claim(transport)
    assert third.envelope.key == "k"
    assert (await transport.stats())[0].dead == 1


async def test_what_a_lost_answer_gave_is_handed_back(server: Server) -> None:
    async with opened(server.url, timeout="0.3") as transport:
        await declare(transport, ordered=True)
        await publish(transport, "k", "k", "k")
        (first,) = await claim(transport)
        server.pause()
        try:
            ((result,), found) = await follow(transport, (first, Ack()))
        finally:
            server.resume()
        assert (type(result), found) == (Unknown, [])
        results, found = await follow(transport, (first, Ack()))  # the server may have done it, or not
        assert ([type(result) in (Settled, LeaseLost) for result in results], found) == ([True], [])
        (second,) = await claim(transport)
        assert second.fence > first.fence
        _, (third,) = await follow(transport, (second, Ack()))
        assert third.fence > second.fence


@pytest.mark.parametrize("workers", [1, 3])
async def test_workers_run_a_hot_key_in_order(server: Server, workers: int) -> None:
    seen: list[int] = []
    enough = asyncio.Event()

    async def receive(event: RawEvent) -> None:
        seen.append(event.decode(dict[str, int])["number"])
        if len(seen) == 300:
            enough.set()

    async with AsyncExitStack() as stack:
        for _ in range(workers):
            bus = Bus(server.url)
            bus.add_subscriber(receive, "orders.>", name="receipts", ordered=True)
            await stack.enter_async_context(bus)
            await stack.enter_async_context(bus.worker())
        await bus.publish_many([RawEvent("orders.order.placed", {"number": n}, key="k") for n in range(300)])
        async with asyncio.timeout(20):
            await enough.wait()
    assert seen == list(range(300))


async def test_a_worker_that_stops_hands_back_what_followed(server: Server) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def receive(event: RawEvent) -> None:
        started.set()
        await go_on.wait()

    bus = Bus(server.url)
    bus.add_subscriber(receive, "orders.>", name="receipts", ordered=True)
    async with bus:
        await bus.publish_many([RawEvent("orders.order.placed", {}, key="k") for _ in range(3)])
        async with bus.worker() as worker:
            await started.wait()
            worker.halt()
            go_on.set()
        async with opened(server.url) as transport:
            (second,) = await claim(transport, owner="next")
            assert second.attempt == 1
            assert (await transport.stats())[0].in_flight == 1
