"""What dies between two steps on Redis: a reader that said nothing more, a group, an answer.  FAULTS 41, 42."""

from __future__ import annotations

import asyncio
import time

import redis
from redis_ground import BOOM, STREAM, claim, declare, keys, opened, publish, sealed

from postbus.delivery import Ack, Bury, Release, Requeue
from postbus.event import topic_of
from postbus.transport import DeadQuery, Outgoing, Settled, SubscriptionSpec
from postbus.transports.redis import RedisTransport
from servers import Server

OWN = "{postbus/orders.order}:1"


async def may_read(transport: RedisTransport) -> None:
    """Something was claimed, and there was no more: now this process may read without the claim script for a moment."""
    await publish(transport, "first")
    (first,) = await claim(transport, lease=0.1)
    await transport.settle([(first, Ack())])
    await claim(transport, lease=0.1)


def read_and_die(admin: redis.Redis) -> None:
    """As a worker that reads so, and is killed before it says what it makes of that."""
    (group,) = admin.xinfo_groups(STREAM)
    admin.xreadgroup(group["name"], "dead|100", {STREAM: ">"})


# -- read without the script


async def test_an_unwanted_event_is_not_delivered_because_its_reader_died(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    await transport.declare([SubscriptionSpec(name="receipts", wants=("orders.order.placed",))])
    await may_read(transport)
    await transport.append([Outgoing(sealed("other", "orders.order.shipped")), Outgoing(sealed("wanted"))])
    read_and_die(admin)
    await asyncio.sleep(0.15)
    assert await claim(transport, owner="b") == []
    assert keys(await claim(transport, owner="b", alone=True)) == ["wanted"]
    assert await claim(transport, owner="c", alone=True) == []


async def test_a_delayed_event_is_not_early_because_its_reader_died(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    await declare(transport)
    await may_read(transport)
    await transport.append([Outgoing(sealed("later"), delay=0.6)])
    published = time.monotonic()
    read_and_die(admin)
    await asyncio.sleep(0.15)
    found = await transport.claim("receipts", owner="b", limit=10, lease=30)
    assert (list(found.deliveries), found.suspects) == ([], False)
    assert found.next_due is not None
    assert 0.2 < found.next_due < 0.6
    await asyncio.sleep(found.next_due)
    assert keys(await claim(transport, owner="b")) == ["later"]
    assert time.monotonic() - published >= 0.6


async def test_a_short_lease_taken_without_the_script_ends_in_time(
    transport: RedisTransport, admin: redis.Redis, server: Server
) -> None:
    await declare(transport)
    await may_read(transport)
    await claim(transport, lease=0.3)
    await publish(transport, "one")
    (held,) = (await transport.claim("receipts", owner="a", limit=1, lease=0.3)).deliveries
    ends = time.monotonic() + 0.3
    async with opened(server.url) as other, asyncio.timeout(3):
        while not (found := await claim(other, owner="b", alone=True)):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
        assert found[0].envelope == held.envelope
        assert time.monotonic() - ends < 2


# -- a group that is gone


async def test_a_group_made_again_goes_on_from_where_it_was(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await declare(transport, "slow")  # holds the stream
    await publish(transport, "done", "done", "retried", "buried", "held", "unread")
    first = (await transport.claim("receipts", owner="a", limit=5, lease=30)).deliveries
    outcomes = [Ack(), Ack(), Requeue(3600, BOOM), Bury("enough", BOOM)]
    await transport.settle(list(zip(first[:4], outcomes, strict=True)))
    await asyncio.sleep(1.1)  # what a group needs is noted once a second
    await transport.stats()
    await transport._trimming.trim(["orders.order"], least=0, exact=True)
    (group, _) = admin.xinfo_groups(STREAM)
    admin.xgroup_destroy(STREAM, group["name"])
    assert keys(await claim(transport, owner="b")) == ["held", "unread"]
    stats = (await transport.stats(["receipts"]))[0]
    assert (stats.retrying, stats.dead, stats.in_flight, stats.trimmed) == (1, 1, 2, 0)
    assert await transport.retire("slow") == 6


async def test_what_waits_in_the_own_store_is_not_read_again(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await publish(transport, "retried", "buried", "acked")
    retried, buried, acked = await claim(transport)
    await transport.settle([(retried, Requeue(0, BOOM)), (buried, Bury("enough", BOOM)), (acked, Ack())])
    (group,) = admin.xinfo_groups(STREAM)
    admin.hdel(f"{OWN}:c", "needs")
    admin.xgroup_destroy(STREAM, group["name"])
    found = await claim(transport, owner="b")
    found += await claim(transport, owner="b")
    assert keys(found) == ["acked", "retried"]
    assert len(await transport.dead("receipts", DeadQuery())) == 1


async def test_one_topic_without_its_group_strands_nothing_of_the_others(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    spec = SubscriptionSpec(name="receipts", wants=("orders.>",), topics=("orders.order", "orders.refund"))
    await transport.declare([spec])
    names = ("orders.order.placed", "orders.refund.made")
    for turn in range(3):
        await transport.append([Outgoing(sealed(f"{topic_of(name)} {turn}", name)) for name in names])
        (group,) = admin.xinfo_groups("{postbus/orders.refund}:s")
        admin.xgroup_destroy("{postbus/orders.refund}:s", group["name"])
        found = keys(await claim(transport)) + keys(await claim(transport))
        assert {f"{topic_of(name)} {turn}" for name in names} <= set(found)


# -- many pending


async def test_two_hundred_thousand_pending_hold_no_script_for_long(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    """FAULTS 41: those of living workers, and behind them ten of a dead one."""
    many, lease = 200_000, 1.0
    await declare(transport)
    await publish(transport, "first")
    (held,) = await claim(transport, lease=3600)
    await transport.settle([(held, Ack())])
    (group,) = (info["name"] for info in admin.xinfo_groups(STREAM))
    fields = {"n": "orders.order.placed", "k": "", "e": "x" * 200}
    with admin.pipeline(transaction=False) as pipe:
        for start in range(0, many, 10_000):
            for _ in range(10_000):
                pipe.xadd(STREAM, fields)  # type: ignore[arg-type]
            pipe.xreadgroup(group, f"living-{start}|3600000", {STREAM: ">"}, count=10_000)
            pipe.execute()
    await publish(transport, *(f"k{n}" for n in range(10)))
    dead = (await transport.claim("receipts", owner="dead", limit=10, lease=lease)).deliveries
    ends = time.monotonic() + lease
    admin.config_set("slowlog-log-slower-than", 50_000)
    admin.slowlog_reset()
    found = []
    async with asyncio.timeout(30):
        while len(found) < 10:
            ready = await transport.claim("receipts", owner="b", limit=10, lease=30)
            assert list(ready.deliveries) == []
            if ready.suspects:
                found += await claim(transport, owner="b", alone=True)
            else:
                await asyncio.sleep(0.05)
    assert {one.envelope.id for one in found} == {one.envelope.id for one in dead}
    assert time.monotonic() - ends < 2 * lease + 5, "all of them are looked through in the time of a claim"
    assert (await transport.stats())[0].in_flight == many + 10
    slow = [entry["command"][:60] for entry in admin.slowlog_get(128)]
    # A busy machine holds the server up now and then; a script that looks at all of them is slow each time.
    assert len(slow) <= 3, slow


# -- cancelled


async def test_a_claim_cancelled_at_any_moment_strands_nothing(transport: RedisTransport) -> None:
    """FAULTS 42: 200 times, a little later each time."""
    await declare(transport)
    done: list[str | None] = []
    for turn in range(200):
        await publish(transport, f"k{turn}")
        claiming = asyncio.ensure_future(claim(transport, owner=f"w{turn % 3}"))
        for _ in range(turn % 12):
            await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
        if claiming.cancelled():
            continue
        found = claiming.result()
        done += keys(found)
        await transport.settle([(one, Ack()) for one in found])
    async with asyncio.timeout(10):
        while len(done) < 200:
            found = await claim(transport, owner="last")
            assert all(one.attempt == 1 for one in found)
            done += keys(found)
            await transport.settle([(one, Ack()) for one in found])
    assert sorted(done) == sorted(f"k{n}" for n in range(200))
    stats = (await transport.stats())[0]
    assert (stats.backlog, stats.in_flight, stats.retrying) == (0, 0, 0)


async def test_what_a_lost_answer_gave_is_handed_back(server: Server) -> None:
    async with opened(server.url) as transport:
        await declare(transport)
        await publish(transport, "one", "two")
        first = (await transport.claim("receipts", owner="a", limit=1, lease=30)).deliveries
        assert keys(list(first)) == ["one"]
        (group,) = [info["name"] for info in await _groups(server)]
        with redis.Redis.from_url(server.url) as admin:
            admin.xreadgroup(group, "a|30000", {STREAM: ">"})
        transport._claiming._given.lost("a", 1)
        again = await claim(transport, owner="a")
        assert keys(again) == ["two"]
        results = await transport.settle([(first[0], Ack()), (again[0], Release())])
        assert [type(result) for result in results] == [Settled] * 2


async def _groups(server: Server) -> list[dict[str, object]]:
    with redis.Redis.from_url(server.url) as admin:
        return list(admin.xinfo_groups(STREAM))
