"""The suite, part eight: opening, closing, reopening, cancelling, and the doorbell."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Set

import pytest

from ..delivery import Ack, Bury, Release, Requeue
from ..errors import Closed
from ..transport import DeadQuery, Duplicate, Immediate, Outgoing, Stored, Traits, Transport
from .suite_ground import BOOM, Ground, ids, inspectable, keys

__all__ = ["DoorSuite"]

_SOON = 10.0  # by then a bell has rung, unless it never will


class DoorSuite(Ground):
    """The ends of things."""

    async def test_its_traits_are_among_the_known_ones(self, transport: Transport) -> None:
        traits = transport.traits
        assert isinstance(traits, Traits)
        assert traits.durable in ("memory", "os", "disk", "server")
        assert traits.lease_of in ("delivery", "owner")
        assert traits.dedup_window >= 600

    # -- open and closed

    async def test_opening_and_closing_twice_is_once(self, transport: Transport) -> None:
        await transport.open()
        await self.declare(transport)
        await self.publish(transport, "o-1")
        for _ in range(2):
            await transport.close()
        assert transport.traits == transport.traits

    async def test_a_closed_transport_says_so(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1")
        delivery = await self.claim_one(transport)
        await transport.close()
        await self.refuses_everything(transport)
        with pytest.raises(Closed):
            await transport.settle([(delivery, Ack())])

    async def test_a_transport_that_was_never_opened_says_so(self) -> None:
        await self.refuses_everything(await self.unopened())

    async def refuses_everything(self, transport: Transport) -> None:
        """Expect `Closed` from each call."""
        with pytest.raises(Closed):
            await self.declare(transport)
        with pytest.raises(Closed):
            await self.append(transport, self.sealed())
        with pytest.raises(Closed):
            await self.claim(transport)
        with pytest.raises(Closed):
            await transport.wait(["receipts"], 0.01)
        desk = inspectable(transport)
        for act in (desk.ping, desk.stats, desk.subscriptions, desk.workers):
            with pytest.raises(Closed):
                await act()

    async def test_whoever_waits_when_it_closes_is_told(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.quiet(transport, ["receipts"])
        waiting = asyncio.create_task(transport.wait(["receipts"], _SOON * 6))
        await asyncio.sleep(0.01)
        await transport.close()
        async with asyncio.timeout(_SOON):
            with pytest.raises(Closed):
                await waiting

    async def test_closing_in_the_middle_of_things_leaves_nobody_waiting(self, transport: Transport) -> None:
        await self.declare(transport)
        (kept,) = await self.publish(transport, "kept")
        calls: list[asyncio.Task[object]] = [
            asyncio.create_task(self.append(transport, self.sealed())) for _ in range(10)
        ]
        calls += [asyncio.create_task(self.claim(transport, limit=1)) for _ in range(10)]
        await asyncio.sleep(0)
        closing = [asyncio.create_task(transport.close()) for _ in range(2)]
        async with asyncio.timeout(_SOON):
            await asyncio.gather(*closing)
            results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            assert isinstance(result, list | Closed), result
        if transport.traits.durable != "memory":
            again = await self.open()
            assert [type(result) for result in await self.append(again, kept)] == [Duplicate]

    async def test_closing_at_any_turn_of_the_loop_ends(self, transport: Transport) -> None:
        await transport.close()
        for turns in range(25):
            again = await self.open()
            await self.declare(again)
            calls = [asyncio.create_task(self.claim(again, limit=1)) for _ in range(3)]
            for _ in range(turns):
                await asyncio.sleep(0)
            async with asyncio.timeout(_SOON):
                await again.close()
                results = await asyncio.gather(*calls, return_exceptions=True)
            for result in results:
                assert isinstance(result, list | Closed), result

    async def test_everything_is_there_after_reopening(self, transport: Transport) -> None:
        if transport.traits.durable == "memory":
            pytest.skip("nothing outlives a transport in memory")
        await self.declare(transport)
        await self.declare(transport, "stock", ordered=transport.traits.ordered)
        sent = await self.publish(transport, "dead", "retried", "waiting")
        dead, retried = await self.claim(transport, limit=2)
        await self.settle(transport, Bury("enough", BOOM), dead)
        await self.settle(transport, Requeue(0, BOOM), retried)
        await transport.close()
        again = await self.open()
        assert [type(result) for result in await self.append(again, *sent)] == [Duplicate] * 3
        found = {delivery.envelope.key: delivery for delivery in await self.claim(again)}
        assert {key: d.attempt for key, d in found.items()} == {"retried": 2, "waiting": 1}
        assert min(delivery.fence for delivery in found.values()) > retried.fence
        assert [letter.envelope for letter in await inspectable(again).dead("receipts", DeadQuery())] == [sent[0]]
        assert len(await self.finish(again, "stock")) == 3

    async def test_leases_outlive_the_transport_that_gave_them(self, transport: Transport) -> None:
        if transport.traits.durable == "memory":
            pytest.skip("nothing outlives a transport in memory")
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2")
        held = await self.claim(transport, owner="gone", limit=1)
        await transport.close()
        again = await self.open()
        assert keys(await self.claim(again, owner="b")) == ["o-2"]
        await self.end_leases()
        assert ids(await self.claim(again, owner="c", alone=True, limit=5))[:1] != []
        assert held[0].envelope.key == "o-1"

    async def test_several_may_open_an_empty_store_at_once(self, transport: Transport) -> None:
        self.needs(transport, "shared")
        others = [await self.unopened() for _ in range(4)]
        await asyncio.gather(*(other.open() for other in others))
        await asyncio.gather(*(self.declare(other) for other in others))
        for number, other in enumerate(others):
            await self.publish(other, f"o-{number}")
        assert keys(await self.finish(transport)) == [f"o-{number}" for number in range(4)]

    async def test_two_transports_share_one_store(self, transport: Transport) -> None:
        other = await self.second(transport)
        await self.declare(transport)
        (envelope,) = await self.publish(other, "o-1")
        (again,) = await self.append(transport, envelope)
        assert isinstance(again, Duplicate)
        delivery = await self.claim_one(transport, owner="a")
        assert await self.claim(other, owner="b") == []
        await self.settle(other, Requeue(0, BOOM), delivery)
        assert (await self.claim_one(other, owner="b")).attempt == 2
        await self.declare(other, "stock")
        await self.publish(transport, "o-2")
        assert keys(await self.claim(other, "stock")) == ["o-2"]

    # -- cancelled

    async def test_a_cancelled_claim_loses_nothing(self, transport: Transport) -> None:
        await self.declare(transport)
        sent = [self.sealed() for _ in range(40)]
        await self.append(transport, *sent)
        for turns in range(20):
            claiming = asyncio.create_task(self.claim(transport, limit=2))
            for _ in range(turns):
                await asyncio.sleep(0)
            claiming.cancel()
            for result in await asyncio.gather(claiming, return_exceptions=True):
                if not isinstance(result, BaseException):
                    await self.settle(transport, Release(), *result)
        async with asyncio.timeout(_SOON):
            found: list[bytes] = []
            while len(found) < len(sent):
                found += ids(await self.claim(transport, owner="b"))
                await asyncio.sleep(0.005)
        assert sorted(found) == sorted(envelope.id_bytes for envelope in sent)

    async def test_a_cancelled_append_stores_once_or_not_at_all(self, transport: Transport) -> None:
        await self.declare(transport)
        for turns in range(8):
            envelope = self.sealed()
            appending = asyncio.create_task(self.append(transport, envelope))
            for _ in range(turns):
                await asyncio.sleep(0)
            appending.cancel()
            await asyncio.gather(appending, return_exceptions=True)
            (again,) = await self.append(transport, envelope)
            assert isinstance(again, Stored | Duplicate)
            assert ids(await self.claim(transport)) == [envelope.id_bytes]

    # -- the doorbell

    async def quiet(self, transport: Transport, names: Collection[str]) -> None:
        """Hear whatever has rung so far."""
        async with asyncio.timeout(_SOON):
            while await transport.wait(names, 0.02):
                pass

    async def rings(self, transport: Transport, act: Callable[[], Awaitable[object]], name: str = "receipts") -> None:
        """Expect a bell from `act`, for one who waits already and for one who comes later."""
        for early in (True, False):
            await self.quiet(transport, ["receipts", "stock"])
            if early:
                waiting = asyncio.create_task(self.heard(transport, name))
                await asyncio.sleep(0.005)
                await act()
                await waiting
            else:
                await act()
                await self.heard(transport, name)

    async def heard(self, transport: Transport, name: str) -> None:
        """Wait for this bell; another that rang before may be heard late, and one may ring for nothing."""
        async with asyncio.timeout(_SOON):
            while name not in await transport.wait(["receipts", "stock"], _SOON):
                pass

    async def ready(self, transport: Transport) -> None:
        """Two subscriptions, of which one gets the orders."""
        await self.declare(transport)
        await self.declare(transport, "stock", ["stock.>"])

    async def test_an_append_rings(self, transport: Transport) -> None:
        await self.ready(transport)
        await self.rings(transport, lambda: self.publish(transport, "o-1"))
        await self.rings(transport, lambda: self.publish(transport, self.sealed("stock.item.sold")), "stock")

    async def test_an_append_elsewhere_rings(self, transport: Transport) -> None:
        other = await self.second(transport)
        await self.ready(transport)
        await self.rings(transport, lambda: self.publish(other, "o-1"))

    async def test_what_is_handed_back_rings(self, transport: Transport) -> None:
        await self.ready(transport)
        await self.publish(transport, "o-1", "o-2", "o-3", "o-4")
        found = await self.claim(transport)
        await self.rings(transport, lambda: self.settle(transport, Release(), found.pop()))
        await self.rings(transport, lambda: self.settle(transport, Requeue(0, BOOM), found.pop()))

    async def test_the_next_of_a_key_rings(self, transport: Transport) -> None:
        self.needs(transport, "ordered")
        await self.declare(transport, ordered=True)
        await self.declare(transport, "stock", ["stock.>"])
        await self.publish(transport, "k", "k", "k")

        async def one_done() -> None:
            await self.settle(transport, Ack(), await self.claim_one(transport))

        await self.rings(transport, one_done)

    async def test_a_replay_and_a_resume_ring(self, transport: Transport) -> None:
        await self.ready(transport)
        desk = inspectable(transport)
        await self.publish(transport, "o-1", "o-2")
        for delivery in await self.claim(transport):
            await self.settle(transport, Bury("enough"), delivery)
        letters = [letter.id for letter in await desk.dead("receipts", DeadQuery())]
        await self.rings(transport, lambda: desk.replay("receipts", [letters.pop()]))
        if transport.traits.pause:

            async def pause_and_resume() -> None:
                await desk.pause("receipts")
                await desk.resume("receipts")

            await self.rings(transport, pause_and_resume)

    async def test_a_bell_that_nobody_waits_for_ends_in_time(self, transport: Transport) -> None:
        await self.ready(transport)
        await self.quiet(transport, ["receipts", "stock"])
        async with asyncio.timeout(_SOON):
            nothing: Set[str] = await transport.wait(["receipts"], 0.01)
        assert nothing <= {"receipts"}
        assert await transport.wait([], 0.01) == set()

    async def test_a_cancelled_wait_leaves_the_bell_working(self, transport: Transport) -> None:
        await self.ready(transport)
        await self.quiet(transport, ["receipts", "stock"])
        for _ in range(3):
            waiting = asyncio.create_task(transport.wait(["receipts"], _SOON))
            await asyncio.sleep(0.002)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await self.rings(transport, lambda: self.publish(transport, "o-1"))

    async def test_two_who_wait_are_both_told(self, transport: Transport) -> None:
        await self.ready(transport)
        await self.quiet(transport, ["receipts", "stock"])
        waiting = [asyncio.create_task(transport.wait(["receipts"], _SOON)) for _ in range(2)]
        await asyncio.sleep(0.005)
        await self.publish(transport, "o-1")
        assert await asyncio.gather(*waiting) == [{"receipts"}, {"receipts"}]

    # -- without a loop

    async def test_any_thread_may_append_at_once(self, transport: Transport) -> None:
        if not isinstance(transport, Immediate):
            pytest.skip(f"{transport.traits.name} appends on the loop only")
        immediate: Immediate = transport
        await self.ready(transport)
        await self.quiet(transport, ["receipts", "stock"])
        waiting = asyncio.create_task(transport.wait(["receipts"], _SOON))
        await asyncio.sleep(0.005)
        sent = [[self.sealed() for _ in range(20)] for _ in range(4)]

        def send(mine: list[Outgoing]) -> list[object]:
            return [result for item in mine for result in immediate.append_now([item], _SOON)]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.to_thread(send, [Outgoing(e) for e in mine])) for mine in sent]
        assert {type(result) for task in tasks for result in task.result()} == {Stored}
        assert await waiting == {"receipts"}
        found = [envelope.id_bytes for envelope in await self.finish(transport)]
        assert sorted(found) == sorted(envelope.id_bytes for mine in sent for envelope in mine)
        for mine in sent:
            own = {envelope.id_bytes for envelope in mine}
            assert [event_id for event_id in found if event_id in own] == [envelope.id_bytes for envelope in mine]
