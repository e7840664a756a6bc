"""The suite, part three: what is due later comes later, and never early."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

from ..delivery import Ack, Delivery, Requeue
from ..transport import Transport
from .clock import ManualClock
from .suite_ground import BOOM, Ground, ids, keys

__all__ = ["TimeSuite"]

# Some servers count in milliseconds, and are never early.
_TICK = 0.002


class TimeSuite(Ground):
    """Requeued and delayed deliveries.  Spans are shares of a lease."""

    async def test_a_requeued_delivery_is_not_early(self, transport: Transport) -> None:
        self.needs(transport, "delay")
        await self.declare(transport)
        await self.publish(transport, "o-1")
        await self.settle(transport, Requeue(self.lease, BOOM), await self.claim_one(transport))
        claimed = await self.offered(transport)
        assert list(claimed.deliveries) == []
        assert claimed.next_due is not None
        assert self.lease * 0.5 < claimed.next_due <= self.lease + _TICK
        await self.elapse(self.lease * 0.6)
        assert await self.claim(transport) == []
        await self.elapse(self.lease * 0.6)
        delivery = await self.claim_one(transport, owner="b")
        assert delivery.attempt == (2 if transport.traits.exact_attempts else delivery.attempt)
        assert (await self.offered(transport)).next_due is None

    async def test_a_snooze_holds_no_lease_and_makes_no_suspect(self, transport: Transport) -> None:
        self.needs(transport, "delay")
        await self.declare(transport)
        await self.publish(transport, "o-1")
        await self.settle(transport, Requeue(self.lease * 3), await self.claim_one(transport))
        await self.elapse(self.lease * 2)
        claimed = await self.offered(transport)
        assert (list(claimed.deliveries), claimed.suspects) == ([], False)
        await self.elapse(self.lease * 1.5)
        assert (await self.claim_one(transport)).attempt == 1

    async def test_a_delayed_event_reaches_no_subscription_early(self, transport: Transport) -> None:
        self.needs(transport, "delay")
        for name in ("receipts", "stock"):
            await self.declare(transport, name)
        await self.publish(transport, "late", delay=self.lease)
        await self.publish(transport, "now")
        for name in ("receipts", "stock"):
            claimed = await self.offered(transport, name)
            assert keys(claimed.deliveries) == ["now"]
            assert claimed.next_due is not None
            assert self.lease * 0.5 < claimed.next_due <= self.lease + _TICK
            await self.settle(transport, Ack(), *claimed.deliveries)
        await self.elapse(self.lease * 1.1)
        for name in ("receipts", "stock"):
            delivery = await self.claim_one(transport, name)
            assert (delivery.envelope.key, delivery.attempt) == ("late", 1)

    async def test_a_subscription_that_begins_with_the_stored_waits_for_the_delay_too(
        self, transport: Transport
    ) -> None:
        self.needs(transport, "delay")
        await self.declare(transport, "stock")
        await self.publish(transport, "late", delay=self.lease)
        await self.declare(transport, "receipts", start="earliest")
        assert await self.claim(transport) == []
        await self.elapse(self.lease * 1.1)
        assert keys(await self.claim(transport)) == ["late"]

    async def test_what_is_due_comes_before_what_is_new(self, transport: Transport) -> None:
        self.needs(transport, "delay")
        await self.declare(transport)
        await self.publish(transport, "failed")
        await self.settle(transport, Requeue(self.lease * 0.5, BOOM), await self.claim_one(transport))
        await self.publish(transport, "delayed", delay=self.lease * 0.5)
        await self.publish(transport, "new-1", "new-2")
        await self.elapse(self.lease * 0.6)
        first = await self.claim(transport, limit=3)
        assert (set(keys(first[:2])), keys(first[2:])) == ({"failed", "delayed"}, ["new-1"])
        assert keys(await self.claim(transport)) == ["new-2"]

    async def test_each_of_many_comes_at_its_own_time(self, transport: Transport) -> None:
        self.needs(transport, "delay")
        await self.declare(transport)
        step = self.lease * 0.5
        await self.append(transport, *(self.sealed(key=str(number % 5)) for number in range(50)))
        claimed = await self.claim(transport)
        began = self.clock.monotonic()
        for number in range(5):
            mine = [delivery for delivery in claimed if delivery.envelope.key == str(number)]
            await self.settle(transport, Requeue(step * (0.5 + number), BOOM), *mine)
        came: list[Delivery] = []
        while len(came) < 50:  # however late this machine is, none may be early, and none before its elders
            await self.elapse(step * 0.2)
            due = await self.claim(transport)
            passed = self.clock.monotonic() - began
            assert all(passed >= step * (0.5 + int(delivery.envelope.key or 0)) - 0.001 for delivery in due)
            came += due
            if due:
                await self.settle(transport, Ack(), *due)
        assert keys(came) == sorted(str(number % 5) for number in range(50))

    async def test_the_wait_until_the_next_is_the_shortest(self, transport: Transport) -> None:
        self.needs(transport, "delay")
        await self.declare(transport)
        for share in (3.0, 1.0, 2.0):
            await self.publish(transport, f"{share}", delay=self.lease * share)
        next_due = (await self.offered(transport)).next_due
        assert next_due is not None
        assert self.lease * 0.5 < next_due <= self.lease + _TICK

    async def test_no_lease_depends_on_the_wall_clock(self, transport: Transport) -> None:
        clock = self.clock
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2")
        first = (await self.claim(transport, owner="a", limit=1))[0]
        for jump in (7200.0, -10_800.0):
            if isinstance(clock, ManualClock):
                clock.set_time(clock.time() + jump)
            claimed = await self.offered(transport, owner="b", limit=1)
            assert first.envelope.id_bytes not in ids(claimed.deliveries)
            assert not claimed.suspects
        await self.settle(transport, Ack(), first)
