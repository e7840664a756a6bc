"""The suite, part four: deliveries of one key run one at a time, in the order they were appended."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

import random
from typing import Literal

import pytest

from ..delivery import Ack, Bury, Delivery, Outcome, Release, Requeue
from ..errors import LeaseLost
from ..transport import DeadQuery, Following, Settled, Transport
from .suite_ground import BOOM, Ground, inspectable, keys

__all__ = ["OrderSuite"]


class OrderSuite(Ground):
    """Ordered subscriptions.  In these tests the version tells apart the events of one key."""

    @pytest.fixture
    async def ordered(self, transport: Transport) -> Transport:
        """A transport with one ordered subscription."""
        return await self.in_order(transport)

    async def in_order(self, transport: Transport, on_bury: Literal["continue", "park"] = "continue") -> Transport:
        """Declare one ordered subscription."""
        self.needs(transport, "ordered")
        await self.declare(transport, ordered=True, on_bury=on_bury)
        return transport

    async def send(self, transport: Transport, *events: str, topic: str = "orders.order") -> None:
        """Append events such as 'a1': version 1 of key 'a'; '-1' has no key."""
        for event in events:
            key = None if event[0] == "-" else event[0]
            await self.publish(transport, self.sealed(key=key, version=int(event[1:]), topic=topic))

    async def take(self, transport: Transport, *, owner: str = "a", limit: int = 100, alone: bool = False) -> list[str]:
        """Claim, and return the events' short names."""
        self.held = {_named(d): d for d in await self.claim(transport, owner=owner, limit=limit, alone=alone)}
        return list(self.held)

    async def test_only_the_head_of_each_key_is_given_out(self, ordered: Transport) -> None:
        await self.send(ordered, "a1", "b1", "a2", "-1", "b2", "-2", "a3")
        assert await self.take(ordered, owner="a") == ["a1", "b1", "-1", "-2"]
        held = dict(self.held)
        assert await self.take(ordered, owner="b") == []
        await self.settle(ordered, Ack(), held["a1"])
        assert await self.take(ordered, owner="b") == ["a2"]
        await self.settle(ordered, Ack(), self.held["a2"], held["b1"], held["-2"])
        assert await self.take(ordered, owner="c") == ["b2", "a3"]
        assert await self.take(ordered, owner="d") == []

    @pytest.mark.parametrize("on_bury", ["continue", "park"])
    async def test_a_settle_may_bring_the_next_of_each_key(
        self, transport: Transport, on_bury: Literal["continue", "park"]
    ) -> None:
        if not isinstance(transport, Following):
            pytest.skip(f"{transport.traits.name} gives what comes next to claims")
        following: Following = transport
        await self.in_order(transport, on_bury)
        await self.send(transport, "a1", "b1", "c1", "a2", "-1", "b2", "c2", "a3", "-2")
        assert await self.take(transport) == ["a1", "b1", "c1", "-1", "-2"]
        held, fences = dict(self.held), [delivery.fence for delivery in self.held.values()]
        outcomes: dict[str, Outcome] = {"a1": Ack(), "b1": Requeue(0, BOOM), "c1": Bury("enough"), "-1": Ack()}
        pairs = [(held[name], outcome) for name, outcome in outcomes.items()]
        results, found = await following.settle_and_follow(pairs, owner="a", lease=self.lease)
        assert list(results) == [Settled()] * 4
        assert [(_named(d), d.attempt, d.owner) for d in found] == [("a2", 1, "a")]
        assert found[0].fence > max(fences)
        assert await self.take(transport, owner="b") == (["b1", "c2"] if on_bury == "continue" else ["b1"])
        results, again = await following.settle_and_follow([(found[0], Ack())], owner="a", lease=self.lease)
        assert (list(results), [_named(d) for d in again]) == ([Settled()], ["a3"])
        results, none = await following.settle_and_follow([(found[0], Ack())], owner="a", lease=self.lease)
        assert ([type(result) for result in results], list(none)) == ([LeaseLost], [])

    async def test_heads_come_in_the_order_of_append(self, ordered: Transport) -> None:
        await self.send(ordered, "a1", "a2", "b1", "b2", "-1")
        order = []
        while taken := await self.take(ordered, limit=1):
            order += taken
            await self.settle(ordered, Ack(), *self.held.values())
        assert order == ["a1", "a2", "b1", "b2", "-1"]

    async def test_a_batch_keeps_its_order_too(self, ordered: Transport) -> None:
        await self.append(ordered, *(self.sealed(key=key, version=n) for n in range(1, 4) for key in ("a", "b")))
        for number in range(1, 4):
            assert sorted(await self.take(ordered)) == [f"a{number}", f"b{number}"]
            await self.settle(ordered, Ack(), *self.held.values())

    async def test_the_same_key_of_another_topic_is_another_key(self, ordered: Transport) -> None:
        await self.send(ordered, "a1", "a2")
        await self.send(ordered, "a8", "a9", topic="orders.item")
        assert sorted(await self.take(ordered)) == ["a1", "a8"]

    async def test_a_failing_head_holds_its_key_until_it_succeeds(self, ordered: Transport) -> None:
        self.needs(ordered, "delay")
        await self.send(ordered, "a1", "a2", "b1")
        assert await self.take(ordered) == ["a1", "b1"]
        await self.settle(ordered, Requeue(self.lease, BOOM), self.held["a1"])
        await self.settle(ordered, Ack(), self.held["b1"])
        assert await self.take(ordered) == []
        await self.elapse(self.lease * 1.1)
        assert await self.take(ordered) == ["a1"]
        await self.settle(ordered, Requeue(0, BOOM), self.held["a1"])
        assert await self.take(ordered, owner="b") == ["a1"]
        await self.settle(ordered, Ack(), self.held["a1"])
        assert await self.take(ordered) == ["a2"]

    async def test_figures_tell_what_waits_behind_its_key(self, ordered: Transport) -> None:
        self.needs(ordered, "delay")
        await self.send(ordered, "a1", "a2", "a3", "b1")
        assert await self.take(ordered) == ["a1", "b1"]
        await self.settle(ordered, Requeue(self.lease, BOOM), self.held["a1"])
        await self.settle(ordered, Ack(), self.held["b1"])
        assert await self.take(ordered) == []
        stats = await self.stats(ordered)
        assert (stats.backlog, stats.waiting, stats.retrying, stats.in_flight) == (2, 2, 1, 0)
        await self.elapse(self.lease * 1.1)
        assert await self.take(ordered) == ["a1"]
        await self.settle(ordered, Ack(), self.held["a1"])
        assert await self.take(ordered) == ["a2"]
        stats = await self.stats(ordered)
        assert (stats.backlog, stats.waiting, stats.retrying) == (1, 1, 0)

    async def test_a_head_that_was_handed_back_is_the_head_again(self, ordered: Transport) -> None:
        await self.send(ordered, "a1", "a2")
        assert await self.take(ordered, owner="a") == ["a1"]
        await self.settle(ordered, Release(), self.held["a1"])
        assert await self.take(ordered, owner="b") == ["a1"]

    async def test_a_suspect_holds_its_key(self, ordered: Transport) -> None:
        await self.send(ordered, "a1", "a2", "b1")
        assert await self.take(ordered, owner="gone") == ["a1", "b1"]
        await self.settle(ordered, Ack(), self.held["b1"])
        await self.end_leases()
        assert await self.take(ordered, owner="b") == []
        assert await self.take(ordered, owner="b", alone=True) == ["a1"]
        await self.settle(ordered, Ack(), self.held["a1"])
        assert await self.take(ordered, owner="b", alone=True) == []
        assert await self.take(ordered, owner="b") == ["a2"]

    async def test_a_delayed_head_holds_its_key(self, ordered: Transport) -> None:
        self.needs(ordered, "delay")
        await self.publish(ordered, self.sealed(key="a", version=1), delay=self.lease)
        await self.send(ordered, "a2", "b1")
        assert await self.take(ordered) == ["b1"]
        await self.elapse(self.lease * 1.1)
        assert await self.take(ordered) == ["a1"]
        await self.settle(ordered, Ack(), self.held["a1"])
        assert await self.take(ordered) == ["a2"]

    async def test_a_delay_behind_the_head_counts_from_the_publish(self, ordered: Transport) -> None:
        self.needs(ordered, "delay")
        await self.send(ordered, "a1")
        await self.publish(ordered, self.sealed(key="a", version=2), delay=self.lease * 2)
        await self.publish(ordered, self.sealed(key="a", version=3), delay=self.lease * 0.1)
        assert await self.take(ordered) == ["a1"]
        await self.settle(ordered, Ack(), self.held["a1"])
        assert await self.take(ordered) == []
        await self.elapse(self.lease * 2.1)
        assert await self.take(ordered) == ["a2"]
        await self.settle(ordered, Ack(), self.held["a2"])
        assert await self.take(ordered) == ["a3"]

    async def test_a_burial_lets_the_key_go_on(self, ordered: Transport) -> None:
        await self.send(ordered, "a1", "a2")
        await self.take(ordered)
        await self.settle(ordered, Bury("enough", BOOM), self.held["a1"])
        assert await self.take(ordered) == ["a2"]

    async def test_a_replay_waits_for_its_key(self, ordered: Transport) -> None:
        desk = inspectable(ordered)
        await self.send(ordered, "a1", "a2", "a3", "a4")
        for expected in ("a1", "a2"):
            assert await self.take(ordered) == [expected]
            await self.settle(ordered, Bury("enough", BOOM), self.held[expected])
        assert await self.take(ordered) == ["a3"]
        running = self.held["a3"]
        letters = await desk.dead("receipts", DeadQuery())
        assert await desk.replay("receipts", [letter.id for letter in letters]) == 2
        assert await self.take(ordered, owner="b") == []
        await self.settle(ordered, Ack(), running)
        for expected in ("a1", "a2", "a4"):
            assert await self.take(ordered) == [expected]
            await self.settle(ordered, Ack(), self.held[expected])

    async def test_replays_of_an_idle_key_run_one_at_a_time(self, ordered: Transport) -> None:
        desk = inspectable(ordered)
        await self.send(ordered, "a1", "a2")
        for expected in ("a1", "a2"):
            await self.take(ordered)
            await self.settle(ordered, Bury("enough", BOOM), self.held[expected])
        letters = await desk.dead("receipts", DeadQuery())
        await desk.replay("receipts", [letter.id for letter in letters])
        assert await self.take(ordered) == ["a1"]
        await self.settle(ordered, Ack(), self.held["a1"])
        assert await self.take(ordered) == ["a2"]

    @pytest.mark.parametrize("way", ["replay", "discard"])
    async def test_a_parked_key_waits_for_its_dead_letter(self, transport: Transport, way: str) -> None:
        await self.in_order(transport, "park")
        desk = inspectable(transport)
        await self.send(transport, "a1", "a2", "b1")
        await self.take(transport)
        await self.settle(transport, Bury("enough", BOOM), self.held["a1"])
        await self.settle(transport, Ack(), self.held["b1"])
        await self.send(transport, "a3", "b2")
        assert await self.take(transport) == ["b2"]
        await self.settle(transport, Ack(), self.held["b2"])
        stats = await self.stats(transport)
        assert (stats.parked, stats.parked_events, stats.dead, stats.backlog) == (1, 2, 1, 0)
        (letter,) = await desk.dead("receipts", DeadQuery())
        assert await getattr(desk, way)("receipts", [letter.id]) == 1
        for expected in ("a1", "a2", "a3") if way == "replay" else ("a2", "a3"):
            assert await self.take(transport) == [expected]
            await self.settle(transport, Ack(), self.held[expected])
        stats = await self.stats(transport)
        assert (stats.parked, stats.parked_events, stats.dead, stats.backlog) == (0, 0, 0, 0)

    async def test_a_key_is_free_again_when_all_is_done(self, ordered: Transport) -> None:
        for number in range(1, 4):
            await self.send(ordered, f"a{number}")
            assert await self.take(ordered) == [f"a{number}"]
            await self.settle(ordered, Ack(), self.held[f"a{number}"])

    async def test_a_subscription_may_become_ordered_and_back(self, transport: Transport) -> None:
        self.needs(transport, "ordered")
        await self.declare(transport)
        await self.send(transport, "a1", "a2", "b1", "a3")
        assert await self.take(transport, owner="w", limit=1) == ["a1"]
        running = self.held["a1"]
        await self.in_order(transport)
        await self.send(transport, "a4", "b2")
        assert await self.take(transport) == ["b1"]
        await self.settle(transport, Ack(), running)
        assert await self.take(transport) == ["a2"]
        await self.settle(transport, Ack(), self.held["a2"])
        await self.declare(transport, wants=["orders.>", "more.>"])
        assert sorted(await self.take(transport)) == ["a3", "a4", "b2"]

    async def test_a_suspect_stays_one_when_its_subscription_becomes_ordered(self, transport: Transport) -> None:
        self.needs(transport, "ordered")
        await self.declare(transport)
        await self.send(transport, "a1")
        await self.take(transport, owner="gone")
        await self.end_leases()
        assert (await self.offered(transport, owner="b")).suspects
        await self.in_order(transport)
        await self.send(transport, "a2")
        assert await self.take(transport, owner="c") == []
        assert await self.take(transport, owner="c", alone=True) == ["a1"]
        await self.settle(transport, Ack(), self.held["a1"])
        assert await self.take(transport, owner="c") == ["a2"]

    async def test_only_the_letter_that_parked_a_key_frees_it(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.in_order(transport, "continue")
        await self.send(transport, "a1", "a2", "a3")
        await self.take(transport)
        await self.settle(transport, Bury("enough", BOOM), self.held["a1"])
        await self.in_order(transport, "park")
        await self.take(transport)
        await self.settle(transport, Bury("enough", BOOM), self.held["a2"])
        first, second = await desk.dead("receipts", DeadQuery())
        assert await desk.replay("receipts", [first.id]) == 1
        assert await self.take(transport) == []
        assert await desk.discard("receipts", [second.id]) == 1
        for expected in ("a1", "a3"):
            assert await self.take(transport) == [expected]
            await self.settle(transport, Ack(), self.held[expected])

    async def test_several_owners_keep_the_order_of_every_key(self, ordered: Transport) -> None:
        luck = random.Random(7)
        events = [f"{key}{number}" for number in range(1, 13) for key in "abcde"]
        await self.append(ordered, *(self.sealed(key=event[0], version=int(event[1:])) for event in events))
        done: list[str] = []
        running: list[Delivery] = []
        while len(done) < len(events):
            running += await self.claim(ordered, owner=f"w{luck.randrange(3)}", limit=luck.randint(1, 4))
            assert len(set(keys(running))) == len(running)
            delivery = running.pop(luck.randrange(len(running)))
            if luck.random() < 0.3:
                await self.settle(ordered, Release() if luck.random() < 0.5 else Requeue(0, BOOM), delivery)
            else:
                await self.settle(ordered, Ack(), delivery)
                done.append(_named(delivery))
        for key in "abcde":
            assert [event for event in done if event[0] == key] == [f"{key}{number}" for number in range(1, 13)]


def _named(delivery: Delivery) -> str:
    """'a1' for version 1 of key 'a'."""
    return f"{delivery.envelope.key or '-'}{delivery.envelope.version}"
