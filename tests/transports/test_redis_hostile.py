"""What others write into Redis, or would like to read out of postbus, does no harm.  FAULTS 14, 64, 68, 70."""

from __future__ import annotations

import asyncio
import logging
import traceback
from dataclasses import dataclass

import msgspec
import psutil
import pytest
import redis
from redis_ground import STREAM, claim, declare, publish

from postbus import AccessRefused, Bus, Context, RawEvent, TransportError, event
from postbus.delivery import Ack
from postbus.envelope import Envelope, new_id
from postbus.signing import Signing
from postbus.transports.redis import RedisTransport, trimming
from postbus.transports.redis.scripts import Script
from postbus.transports.redis.wire import pack
from servers import Server


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    number: int = 0


HOSTILE = {
    "not msgpack": b"\xc1\xff\x00",
    "truncated": b"\x82\xa6number\x01",
    "deep": b"\x91" * 100_000 + b"\xc0",
    "a list of four billion": b"\xdd\xff\xff\xff\xff",
    "wrong types": b"\x82\xa6number\xa1x\xa8order_id\x01",
    "missing": b"\x80",
    "five thousand digits": b"\x82\xa8order_id\xa1x\xa6number\xdb\x00\x00\x13\x88" + b"9" * 5000,
    "ten megabytes": b"\x82\xa6number\x01\xa8order_id\xdb\x00\x98\x96\x80" + b"x" * 10_000_000,
    "half of a time": b"\x82\xa8order_id\xa1x\xa6number\xc7\x0c\xff" + b"\xff" * 5,
}

NO_JSON = (b'{"order_id": "x", "number": NaN}', b"[" * 100_000, b'{"order_id": "\xff"}')


def sealed(body: bytes, **fields: object) -> bytes:
    """What stands in the field `e`."""
    kind = fields.pop("format", "application/msgpack")
    return pack(Envelope(new_id(), "orders.order.placed", "orders.order", "k", 0, 1, str(kind), body))


async def test_hostile_bodies_written_into_the_stream_become_dead_letters(server: Server, admin: redis.Redis) -> None:
    bus = Bus(server.url)
    seen: list[str] = []

    @bus.subscriber(OrderPlaced, name="good")
    async def good(placed: OrderPlaced) -> None:
        seen.append(placed.order_id)

    entries = [sealed(body) for body in HOSTILE.values()]
    entries += [sealed(body, format="application/json") for body in NO_JSON]
    entries += [sealed(b"\x80\x04\x95", format=kind) for kind in ("application/x-pickle", "zip;bomb=1", "\x1b[31m", "")]
    async with bus:
        for entry in entries:
            admin.xadd(STREAM, {"n": "orders.order.placed", "k": "k", "e": entry})
        before = psutil.Process().memory_info().rss
        await bus.publish(OrderPlaced("good"))
        await bus.drain(timeout=20)
        grown = psutil.Process().memory_info().rss - before
        letters = await bus.dead.list("good", limit=1000)
    assert seen == ["good"]
    assert len(letters) == len(entries)
    assert all(letter.reason.startswith("undecodable: ") for letter in letters), [one.reason for one in letters]
    assert grown < 50 * 1024 * 1024


async def test_a_forged_event_is_never_run(server: Server, admin: redis.Redis) -> None:
    """Unsigned, signed by somebody else, altered, moved to another topic, or brought back when it is too old."""
    bus = Bus(server.url, hooks=[Signing({"k1": "secret"})])
    strange = Bus(server.url, namespace="strange", hooks=[Signing({"k1": "guessed"})])
    seen: list[str] = []

    @bus.subscriber("orders.>", name="good")
    async def good(raw: RawEvent, context: Context) -> None:
        seen.append(f"{context.envelope.topic} {raw.key}")

    async with bus:
        true = await bus.publish(OrderPlaced("true"))
        async with strange:
            guessed = await strange.publish(OrderPlaced("guessed"))
        altered = msgspec.structs.replace(
            true, id_bytes=new_id(), body=bus.catalog.seal(OrderPlaced("x"), micros=0).body
        )
        unsigned = msgspec.structs.replace(true, id_bytes=new_id(), header_map=None)
        for forged in (guessed, altered, unsigned):
            admin.xadd(STREAM, {"n": forged.name, "k": forged.key or "", "e": pack(forged)})
        await bus.publish(RawEvent("orders.item.added", {}, key="true"))
        admin.xadd("{postbus/orders.item}:s", {"n": true.name, "k": true.key or "", "e": pack(true)})
        await bus.drain(timeout=20)
        letters = await bus.dead.list("good")
        await bus.drain(timeout=20)
    assert sorted(seen) == ["orders.item true", "orders.order true"]
    assert [letter.attempts for letter in letters] == [1] * 4
    assert all("signature" in letter.reason for letter in letters), [letter.reason for letter in letters]


PLACES = [
    "redis://me:canary@127.0.0.1:1/0",
    "redis://:canary@127.0.0.1:1/0",
    "rediss://me:canary@127.0.0.1:1/0",
    "unix://me:canary@/nowhere/redis.sock",
    "redis+cluster://me:canary@127.0.0.1:1,127.0.0.1:2",
    "redis+sentinel://me:canary@127.0.0.1:1,127.0.0.1:2/0?service=mymaster&sentinel_password=canary",
    "rediss+sentinel://:canary@127.0.0.1:1/0?service=mymaster&sentinel_username=me&sentinel_password=canary",
]


@pytest.mark.parametrize("url", PLACES)
async def test_a_password_is_told_to_nobody(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bus = Bus(f"{url}{'&' if '?' in url else '?'}timeout=1")
    bus.add_subscriber(lambda placed: None, OrderPlaced, name="receipts")
    with pytest.raises(TransportError) as caught:
        async with bus:
            pass
    told = [repr(bus), repr(bus.transport), *traceback.format_exception(caught.value), caplog.text]
    assert "127.0.0.1" in told[0] or "redis.sock" in told[0]
    assert not [text for text in told if "canary" in text]


async def test_a_password_that_is_wrong_is_told_to_nobody(server: Server, admin: redis.Redis) -> None:
    admin.execute_command("ACL", "SETUSER", "me", "on", ">secret", "~*", "&*", "+@all")
    bus = Bus(server.url.replace("redis://", "redis://me:canary@"))
    with pytest.raises(AccessRefused) as caught:
        async with bus:
            pass
    assert "canary" not in "".join(traceback.format_exception(caught.value))


async def test_readers_that_died_are_forgotten_and_what_they_held_is_not(
    transport: RedisTransport, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 14: each start of a worker is a consumer; those that hold nothing go when they were long away."""
    await declare(transport)
    for start in range(30):
        await publish(transport, "k")
        (held,) = await claim(transport, owner=f"worker {start}", lease=0.2)
        if start != 7:  # this one dies with it
            await transport.settle([(held, Ack())])
    (group,) = admin.xinfo_groups(STREAM)
    assert group["consumers"] == 30
    hour, moment = b"3600000", b"100"
    assert trimming.TRIM.text.count(hour) == 1
    soon = Script("trim", trimming.TRIM.text.replace(hour, moment), of_a_topic=True)
    monkeypatch.setattr(trimming, "TRIM", soon)
    await asyncio.sleep(0.3)
    admin.hdel(f"{STREAM[:-2]}:c", "tidied_at")
    await publish(transport, "k")
    (held,) = await claim(transport, owner="alive")
    await transport.settle([(held, Ack())])
    async with asyncio.timeout(20):
        while admin.xinfo_groups(STREAM)[0]["consumers"] > 2:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)
    (suspect,) = await claim(transport, owner="alive", alone=True)
    assert suspect.envelope.key == "k"
    assert (await transport.stats())[0].in_flight == 1
