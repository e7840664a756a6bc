"""The suite, part ten: one topic in several logs is one topic still, for whoever takes it and whoever looks at it."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ..delivery import Ack, Bury, DeadLetter, Delivery, Release, Requeue
from ..envelope import Envelope, new_id
from ..event import logs_of, partition_of
from ..transport import DeadQuery, Duplicate, EventQuery, StoredEvent, Transport
from .suite_ground import BOOM, Ground, ids, inspectable, keys

__all__ = ["LogSuite"]

TOPIC = "orders.order"
LETTERS = "abcdefgh"


class LogSuite(Ground):
    """Topics with partitions."""

    def spread(self, key: str | None = None, of: int = 4, **fields: Any) -> Envelope:
        """An event as it is sealed for a topic of so many partitions."""
        id_bytes = new_id()
        return self.sealed(key=key, id_bytes=id_bytes, partition=partition_of(of, key, id_bytes), **fields)

    async def spread_out(self, transport: Transport, *, of: int = 4, **spec: Any) -> list[Envelope]:
        """Declare, and publish two events for each of eight keys."""
        await self.declare(transport, topics=logs_of(TOPIC, of), **spec)
        sent = [self.spread(key, of, version=version) for version in (1, 2) for key in LETTERS]
        return await self.publish(transport, *sent)

    async def test_a_subscription_takes_all_logs_of_a_topic(self, transport: Transport) -> None:
        sent = await self.spread_out(transport)
        assert len({envelope.log for envelope in sent}) == 4
        sent += await self.publish(transport, *(self.spread() for _ in range(8)))
        received = await self.finish(transport)
        assert sorted(received, key=_id) == sorted(sent, key=_id)
        assert {envelope.topic for envelope in received} == {TOPIC}

    async def test_a_batch_is_spread_and_answered_in_its_order(self, transport: Transport) -> None:
        await self.declare(transport, topics=logs_of(TOPIC, 4))
        sent = [self.spread(key) for key in LETTERS]
        await self.publish(transport, sent[3])
        results = await self.append(transport, *sent)
        assert [isinstance(result, Duplicate) for result in results] == [n == 3 for n in range(8)]
        assert sorted(keys(await self.finish(transport)), key=str) == list(LETTERS)

    async def test_a_claim_gives_as_many_as_were_asked_for_and_in_the_end_the_rest(self, transport: Transport) -> None:
        await self.declare(transport, topics=logs_of(TOPIC, 8))
        sent = [self.spread() for _ in range(300)]
        await self.append(transport, *sent)
        received: list[Delivery] = []
        for limit in (1, 7, 33, 100, 5, 64, 64, 200):
            found = await self.claim(transport, limit=limit)
            assert len(found) == min(limit, len(sent) - len(received))
            received += found
        assert sorted(ids(received)) == sorted(envelope.id_bytes for envelope in sent)

    async def test_a_key_keeps_its_order(self, transport: Transport) -> None:
        self.needs(transport, "ordered")
        await self.spread_out(transport, ordered=True)
        for version in (1, 2):
            heads = await self.claim(transport)
            assert sorted(keys(heads), key=str) == list(LETTERS)
            assert {head.envelope.version for head in heads} == {version}
            assert await self.claim(transport, owner="b") == []
            await self.settle(transport, Ack(), *heads)

    async def test_a_failing_head_holds_its_key_and_no_other(self, transport: Transport) -> None:
        self.needs(transport, "ordered")
        await self.spread_out(transport, ordered=True)
        heads = await self.claim(transport)
        failed = heads.pop()
        await self.settle(transport, Requeue(self.lease, BOOM), failed)
        await self.settle(transport, Ack(), *heads)
        later = await self.claim(transport)
        assert sorted(keys(later), key=str) == sorted(set(LETTERS) - {failed.envelope.key})
        await self.settle(transport, Release(), *later)

    async def test_it_is_one_backlog_one_set_of_dead_letters_and_one_switch(self, transport: Transport) -> None:
        desk = inspectable(transport)
        sent = await self.spread_out(transport)
        assert (await self.stats(transport)).backlog == len(sent)
        found = await self.claim(transport)
        await self.settle(transport, Bury("no", BOOM), *found)
        stats = await self.stats(transport)
        assert (stats.backlog, stats.in_flight, stats.dead) == (0, 0, len(sent))
        letters = await self.dead_pages(transport)
        assert sorted((letter.envelope for letter in letters), key=_id) == sorted(sent, key=_id)
        self.needs(transport, "pause")
        await desk.pause("receipts")
        assert await desk.replay("receipts", [letter.id for letter in letters]) == len(sent)
        assert await self.claim(transport) == []
        await desk.resume("receipts")
        assert sorted(await self.finish(transport), key=_id) == sorted(sent, key=_id)

    async def dead_pages(self, transport: Transport) -> list[DeadLetter]:
        """All dead letters, three at a time."""
        found: list[DeadLetter] = []
        while page := await inspectable(transport).dead(
            "receipts", DeadQuery(), limit=3, after=found[-1].id if found else None
        ):
            found += page
        return found

    async def test_events_are_listed_by_their_topic_newest_first(self, transport: Transport) -> None:
        desk = inspectable(transport)
        sent = await self.spread_out(transport)
        listed: list[StoredEvent] = []
        while page := await desk.events(EventQuery(), limit=5, after=listed[-1].cursor if listed else None):
            listed += page
        assert sorted((one.envelope for one in listed), key=_id) == sorted(sent, key=_id)
        assert all(one.states == {"receipts": "ready"} for one in listed)
        (found,) = await desk.events(EventQuery(id=sent[5].id))
        assert found.envelope == sent[5]

    async def test_history_is_delivered_again_out_of_all_logs(self, transport: Transport) -> None:
        self.needs(transport, "history")
        transport = await self.open(retain=3600)
        sent = await self.spread_out(transport)
        assert len(await self.finish(transport)) == len(sent)
        assert await inspectable(transport).seek("receipts", datetime(1970, 1, 1, tzinfo=UTC)) == len(sent)
        assert sorted(await self.finish(transport), key=_id) == sorted(sent, key=_id)

    async def test_a_subscription_to_one_topic_takes_its_logs_and_no_other_topic(self, transport: Transport) -> None:
        await self.declare(transport, topic=TOPIC)
        sent = [self.spread(key) for key in LETTERS]
        others = [self.spread(key, topic="orders.item") for key in LETTERS]
        await self.publish(transport, *sent, *others)
        assert sorted(await self.finish(transport), key=_id) == sorted(sent, key=_id)

    async def test_another_number_of_partitions_leaves_nothing_behind(self, transport: Transport) -> None:
        sent: list[Envelope] = []
        await self.declare(transport, topics=logs_of(TOPIC, 1))
        for partitions in (1, 8, 3):
            sent += await self.publish(transport, *(self.spread(key, partitions) for key in LETTERS))
            await self.declare(transport, topics=logs_of(TOPIC, partitions))
        assert sorted(ids(await self.claim(transport))) == sorted(envelope.id_bytes for envelope in sent)

    async def test_partitions_make_no_other_declaration(self, transport: Transport) -> None:
        first = await self.declare(transport, topics=logs_of(TOPIC, 2))
        await self.declare(transport, topics=logs_of(TOPIC, 8))
        assert list(await transport.declare([first])) == []

    async def test_a_renamed_and_a_retired_one_take_their_logs_along(self, transport: Transport) -> None:
        self.needs(transport, "rename")
        desk = inspectable(transport)
        sent = await self.spread_out(transport)
        await desk.rename("receipts", "slips")
        held = await self.claim(transport, "slips", limit=3)
        assert len(held) == 3
        assert await desk.retire("slips") == len(sent)
        await self.declare(transport, topics=logs_of(TOPIC, 4))
        assert await self.claim(transport) == []


def _id(envelope: Envelope) -> bytes:
    return envelope.id_bytes
