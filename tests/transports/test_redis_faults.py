"""What servers do to the Redis transport: full, flushed, restarted, restricted, and written to by others."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis
from redis_ground import BOOM, STREAM, claim, declare, keys, on_the_oldest_too, opened, publish, sealed

from postbus.delivery import Ack, Bury, Release, Requeue
from postbus.errors import LeaseLost, PublishFailed, TransportError, TransportFull
from postbus.transport import DeadQuery, Outgoing, Refused, Settle, Settled, Stored, Unknown
from postbus.transports.redis import RedisTransport
from server_kinds import RedisKind
from servers import Server, own

# -- gone


@on_the_oldest_too
async def test_after_a_flush_the_workers_declaration_finds_what_was_published_since(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    spec = await declare(transport)
    await publish(transport, "lost with the server's memory")
    admin.flushall()
    (stored,) = await publish(transport, "since")
    assert stored == Stored(0)
    with pytest.raises(LookupError):
        await claim(transport)
    assert list(await transport.declare([spec])) == []
    assert keys(await claim(transport)) == ["since"]
    await publish(transport, "later")
    assert keys(await claim(transport)) == ["later"]


async def test_a_first_declaration_after_a_flush_begins_as_it_says(
    transport: RedisTransport, admin: redis.Redis, server: Server
) -> None:
    await declare(transport, "stock")
    await publish(transport, "before")
    async with opened(server.url) as other:
        await declare(other)
        assert await claim(other) == []


@on_the_oldest_too
async def test_a_destroyed_group_is_made_again_with_what_is_stored(
    transport: RedisTransport, admin: redis.Redis
) -> None:
    await declare(transport)
    await publish(transport, "held", "waiting")
    (held,) = (await transport.claim("receipts", owner="a", limit=1, lease=30)).deliveries
    for group in admin.xinfo_groups(STREAM):
        admin.xgroup_destroy(STREAM, group["name"])
    assert [type(result) for result in await transport.settle([(held, Ack())])] == [LeaseLost]
    again = await claim(transport, owner="b")
    assert keys(again) == ["held", "waiting"]
    results = await transport.settle([(held, Ack()), (held, Requeue(0, BOOM)), *((one, Ack()) for one in again)])
    assert [type(result) for result in results] == [LeaseLost, LeaseLost, Settled, Settled]


async def test_a_deleted_stream_goes_on_with_what_comes(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await publish(transport, "gone")
    admin.delete(STREAM)
    await publish(transport, "new")
    assert keys(await claim(transport)) == ["new"]


async def test_what_others_trim_is_counted_and_holds_nobody_up(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await publish(transport, "trimmed")
    await claim(transport, owner="gone", lease=0.1)
    admin.xtrim(STREAM, maxlen=0, approximate=False)
    await asyncio.sleep(0.15)
    assert await claim(transport, owner="b", alone=True) == []
    assert (await transport.stats())[0].in_flight == 0
    assert admin.hget("{postbus/orders.order}:1:c", "trimmed") == b"1"


# -- full


@on_the_oldest_too
async def test_a_full_server_refuses_and_its_backlog_drains(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await declare(transport, "ordered", ordered=True)
    await publish(transport, *(f"k{n % 3}" for n in range(30)))
    first = await claim(transport)
    await transport.settle([(delivery, Requeue(0, BOOM)) for delivery in first[:20]])
    admin.config_set("maxmemory", 1)
    try:
        refused = await publish(transport, "too much", None)
        assert [type(result.error) for result in refused if isinstance(result, Refused)] == [TransportFull] * 2
        results = await transport.settle(
            [(d, Bury("enough", BOOM)) for d in first[20:25]] + [(d, Ack()) for d in first[25:]]
        )
        assert {type(result) for result in results} == {Settled}
        for name, expected in (("receipts", 20), ("ordered", 30)):
            done = 0
            while found := await claim(transport, name):
                results = await transport.settle([(delivery, Ack()) for delivery in found])
                assert {type(result) for result in results} == {Settled}
                done += len(found)
            assert done == expected
    finally:
        admin.config_set("maxmemory", 0)
    assert len(await transport.dead("receipts", DeadQuery())) == 5
    assert await publish(transport, "room again") == [Stored(2)]


# -- unreachable


async def test_a_server_that_is_down_refuses_for_sure(transport: RedisTransport, server: Server) -> None:
    await declare(transport)
    await publish(transport, "known")
    server.kill()
    (result,) = await publish(transport, "down")
    assert isinstance(result, Refused | Unknown)
    (again,) = await publish(transport, "down")
    assert isinstance(again, Refused)
    assert type(again.error) is PublishFailed
    with pytest.raises(TransportError):
        await claim(transport)


async def test_a_frozen_server_leaves_the_fate_unknown_and_the_same_id_is_stored_once(server: Server) -> None:
    async with opened(server.url, timeout="0.5", publish_timeout=0.5) as transport:
        await declare(transport)
        await publish(transport, "warm")
        envelope = sealed("unknown")
        server.pause()
        try:
            (result,) = await transport.append([Outgoing(envelope)])
            assert isinstance(result, Unknown)
            with pytest.raises(TransportError):
                await claim(transport)
        finally:
            server.resume()
        async with asyncio.timeout(10):
            while isinstance((await transport.append([Outgoing(envelope)]))[0], Refused | Unknown):  # noqa: ASYNC110 - its return rings no bell
                await asyncio.sleep(0.05)
        found = keys(await claim(transport, owner="b")) + keys(await claim(transport, owner="c"))
        assert found.count("unknown") == 1


async def test_a_restarted_server_is_used_again_and_has_kept_everything() -> None:
    for server in own(RedisKind(durable=True)):
        async with opened(server.url) as transport:
            await declare(transport)
            await publish(transport, "one", "two")
            (held,) = (await transport.claim("receipts", owner="a", limit=1, lease=30)).deliveries
            renewer = transport.renewer()
            server.kill()
            with pytest.raises(TransportError):
                await asyncio.to_thread(renewer.renew, [held], 30)
            server.start()
            assert await asyncio.to_thread(renewer.renew, [held], 30) == []
            renewer.close()
            async with asyncio.timeout(10):
                while not isinstance((await publish(transport, "three"))[0], Stored):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)
            results: list[Settle] = []
            async with asyncio.timeout(10):
                while not results or isinstance(results[0], Unknown):
                    results = list(await transport.settle([(held, Ack())]))
            assert [type(result) for result in results] == [Settled]
            assert keys(await claim(transport, owner="b")) == ["two", "three"]


async def test_the_bell_rings_again_after_a_restart(server: Server) -> None:
    async with opened(server.url) as transport:
        await declare(transport)
        await transport.wait(["receipts"], 0.05)
        server.restart()
        async with asyncio.timeout(15):
            while await transport.wait(["receipts"], 0.3) != {"receipts"}:
                pass


# -- others


@on_the_oldest_too
async def test_a_restricted_user_is_enough(server: Server, admin: redis.Redis) -> None:
    admin.execute_command(  # type: ignore[no-untyped-call]
        "ACL", "SETUSER", "bus", "on", ">secret", "~{postbus}*", "~{postbus/*", "resetchannels", "&{postbus}:bell",
        "-@all", "+@read", "+@write", "+@connection", "+evalsha", "+script|load", "+subscribe", "+publish", "+time",
        "-@dangerous",
    )  # fmt: skip
    place = urlsplit(server.url)
    async with opened(f"redis://bus:secret@{place.hostname}:{place.port}/0") as transport:
        await declare(transport)
        await publish(transport, "one", "two")
        one, two = await claim(transport)
        await transport.settle([(one, Bury("enough", BOOM)), (two, Ack())])
        renewer = transport.renewer()
        await asyncio.to_thread(renewer.renew, [], 1)
        renewer.close()
        (letter,) = await transport.dead(None, DeadQuery())
        assert await transport.replay("receipts", [letter.id]) == 1
        assert "receipts" in await transport.wait(["receipts"], 5)
        assert (await transport.stats())[0].backlog == 1
        assert await transport.retire("receipts") == 1


async def test_other_producers_fields_arrive_as_an_event(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport, topics=("orders.order",))
    await declare(transport, "ordered", topics=("orders.order",), ordered=True)
    admin.xadd(STREAM, {"name": "orders.order.placed", "key": "o-1", "amount": "42"})
    admin.xadd(STREAM, {"name": "identity.user.registered"})
    admin.xadd(STREAM, {"name": "orders.order.placed", "key": "o-1", "note": "größer"})
    first, second = await claim(transport)
    assert (first.envelope.name, first.envelope.key) == ("orders.order.placed", "o-1")
    assert b"amount" in first.envelope.body
    assert "größer".encode() in second.envelope.body
    (head,) = await claim(transport, "ordered")
    assert head.envelope == first.envelope
    await transport.settle([(head, Ack()), (first, Requeue(0, BOOM))])
    (head,) = await claim(transport, "ordered")
    assert head.envelope == second.envelope
    (again,) = await claim(transport)
    assert again.envelope == first.envelope


async def test_what_is_no_event_becomes_a_dead_letter(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport, topics=("orders.order",))
    admin.xadd(STREAM, {"n": "orders.order.placed", "k": "", "e": b"\x93nonsense"})
    admin.xadd(STREAM, {"name": "orders.order.placed", "raw": b"\xff\xfe"})
    admin.xadd(STREAM, {"name": b"orders.order.\xff"})
    await publish(transport, "sound")
    assert keys(await claim(transport)) == ["sound"]
    letters = await transport.dead("receipts", DeadQuery())
    assert [letter.reason.partition(":")[0] for letter in letters] == ["undecodable"] * 3
    assert {type(letter.id) for letter in letters} == {UUID}
    assert await transport.discard("receipts", [letter.id for letter in letters]) == 3


# -- kept small


async def test_memory_is_let_go_of_when_everything_is_done(transport: RedisTransport, admin: redis.Redis) -> None:
    await declare(transport)
    await declare(transport, "ordered", ordered=True)
    for _ in range(10):
        await transport.append([Outgoing(sealed(f"k{n % 50}", body=b"x" * 200)) for n in range(500)])
    for name in ("receipts", "ordered"):
        while found := await claim(transport, name):
            await transport.settle(
                [(d, Release() if d.fence % 10 == 0 and d.attempt == 1 else Ack()) for d in found[:1]]
            )
            await transport.settle([(delivery, Ack()) for delivery in found[1:]])
    async with asyncio.timeout(10):
        while admin.xlen(STREAM) >= 200:
            await publish(transport, "last")
            for name in ("receipts", "ordered"):
                await transport.settle([(delivery, Ack()) for delivery in await claim(transport, name)])
            await asyncio.sleep(0.12)
    left = {key.decode().rpartition(":")[2] for key in admin.scan_iter("{postbus/orders.order}:2:*")}
    assert left == {"c"}
