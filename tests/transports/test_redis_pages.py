"""Whatever there is much of on Redis is looked at in pages: each thing once, in order, and no script takes long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import redis
from redis_ground import BOOM, STREAM, declare, opened, sealed

from postbus.delivery import Ack, Bury, Requeue
from postbus.transport import DeadQuery, EventQuery, Outgoing, StoredEvent
from postbus.transports.redis import RedisTransport
from servers import Server

MANY = 3000


@pytest.fixture
def slow(admin: redis.Redis) -> Iterator[list[bytes]]:
    """The scripts that took more than 50 ms: all of it at once takes longer, each time."""
    admin.config_set("slowlog-log-slower-than", 50_000)
    admin.slowlog_reset()
    found: list[bytes] = []
    yield found
    found += [entry["command"][:80] for entry in admin.slowlog_get(64)]
    assert len(found) <= 3, found  # a busy machine holds the server up now and then


async def filled(transport: RedisTransport) -> list[str]:
    """A third is dead, a third retried, a third unread; the keys, newest first."""
    await declare(transport)
    for start in range(0, MANY, 500):
        await transport.append([Outgoing(sealed(f"k{n:05}")) for n in range(start, start + 500)])
    done = 0
    while done < 2 * MANY // 3:
        found = (await transport.claim("receipts", owner="a", limit=250, lease=60)).deliveries
        outcome = Bury("enough", BOOM) if done < MANY // 3 else Requeue(3600, BOOM)
        await transport.settle([(one, outcome) for one in found])
        done += len(found)
    return [f"k{n:05}" for n in reversed(range(MANY))]


async def test_events_come_page_by_page_wherever_they_are(
    transport: RedisTransport, admin: redis.Redis, slow: list[bytes]
) -> None:
    expected = await filled(transport)
    pages: list[list[StoredEvent]] = []
    after = None
    while page := list(await transport.events(EventQuery(), limit=170, after=after)):
        pages.append(page)
        after = page[-1].cursor
    found = [one for page in pages for one in page]
    assert [one.envelope.key for one in found] == expected
    assert {len(page) for page in pages[:-1]} == {170}
    third = MANY // 3
    states = [one.states["receipts"] for one in found]
    assert states == ["ready"] * third + ["retrying"] * third + ["dead"] * third
    assert admin.xlen(STREAM) == third
    (one,) = await transport.events(EventQuery(key="k00001"))
    assert one.states == {"receipts": "dead"}
    (stats,) = await transport.stats()
    assert (stats.backlog, stats.retrying, stats.dead) == (third, third, third)


async def test_all_dead_letters_are_replayed_in_one_call(transport: RedisTransport, slow: list[bytes]) -> None:
    await filled(transport)
    letters = await transport.dead("receipts", DeadQuery(), limit=MANY)
    assert len(letters) == MANY // 3
    assert await transport.replay("receipts", [letter.id for letter in letters]) == MANY // 3
    assert await transport.dead("receipts", DeadQuery()) == []
    (stats,) = await transport.stats()
    assert stats.backlog == 2 * MANY // 3


async def test_history_is_sought_in_pieces(server: Server, slow: list[bytes]) -> None:
    async with opened(server.url, retain=3600) as transport:
        await declare(transport)
        for start in range(0, MANY, 500):
            await transport.append([Outgoing(sealed(f"k{n}")) for n in range(start, start + 500)])
        while found := (await transport.claim("receipts", owner="a", limit=500, lease=60)).deliveries:
            await transport.settle([(one, Ack()) for one in found])
        assert await transport.seek("receipts", datetime(2020, 1, 1, tzinfo=UTC)) == MANY
        assert (await transport.stats())[0].backlog == MANY
