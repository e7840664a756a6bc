"""The suite, part two: leases end or are renewed, late settles are refused, and crashes convict only who ran alone."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

import pytest
from msgspec.structs import replace

from ..delivery import Ack, Bury, Delivery, Outcome, Release, Requeue
from ..errors import LeaseLost
from ..transport import Settle, Settled, Transport
from .suite_ground import BOOM, Ground, ids, inspectable, keys

__all__ = ["LeaseSuite"]

_OUTCOMES = [Ack(), Requeue(0, BOOM), Bury("enough", BOOM), Release()]


class LeaseSuite(Ground):
    """One owner at a time, and what becomes of a delivery whose owner vanished."""

    async def test_a_lease_keeps_others_away_until_it_ends(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1")
        await self.claim_one(transport, owner="a")
        await self.elapse(self.lease * 0.5)
        claimed = await self.offered(transport, owner="b")
        assert (list(claimed.deliveries), claimed.suspects) == ([], False)
        assert await self.claim(transport, owner="b", alone=True) == []
        await self.elapse(self.lease)
        assert len(await self.claim(transport, owner="b", alone=True)) == 1

    async def test_what_a_vanished_owner_held_is_given_out_only_to_run_alone(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2")
        held = await self.claim(transport, owner="gone")
        await self.end_leases()
        await self.publish(transport, "fresh")
        claimed = await self.offered(transport, owner="b")
        assert (keys(claimed.deliveries), claimed.suspects) == (["fresh"], True)
        first = await self.offered(transport, owner="b", limit=10, alone=True)
        second = await self.offered(transport, owner="c", limit=10, alone=True)
        assert (len(first.deliveries), first.suspects) == (1, True)
        assert (len(second.deliveries), second.suspects) == (1, False)
        assert {*ids(first.deliveries), *ids(second.deliveries)} == set(ids(held))
        assert await self.claim(transport, owner="d", alone=True) == []

    async def test_a_lone_claim_gives_nothing_but_suspects(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1")
        claimed = await self.offered(transport, alone=True)
        assert (list(claimed.deliveries), claimed.suspects) == ([], False)
        assert len(await self.claim(transport)) == 1

    async def test_a_crash_shared_with_others_spends_nothing(self, transport: Transport) -> None:
        self.needs(transport, "exact_attempts")
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2", "o-3")
        for number in range(3):
            found = await self.claim(transport, owner=f"w{number}")
            assert [delivery.attempt for delivery in found] == [1, 1, 1]
            await self.end_leases()
            suspects = [await self.claim(transport, owner="survivor", alone=True) for _ in range(3)]
            assert [[delivery.attempt for delivery in batch] for batch in suspects] == [[1], [1], [1]]
            await self.settle(transport, Requeue(0), *(batch[0] for batch in suspects))

    async def test_a_crash_while_it_ran_alone_spends_one_attempt_each_time(self, transport: Transport) -> None:
        self.needs(transport, "exact_attempts")
        await self.declare(transport)
        await self.publish(transport, "killer", "bystander")
        await self.claim(transport, owner="w0")
        await self.end_leases()
        while (one := await self.claim_one(transport, owner="w", alone=True)).envelope.key != "killer":
            await self.settle(transport, Ack(), one)
        assert one.attempt == 1
        for number in range(2, 5):
            await self.end_leases()
            found = [
                delivery
                for owner in (f"w{number}", f"v{number}")
                for delivery in await self.claim(transport, owner=owner, alone=True)
            ]
            attempts = {delivery.envelope.key: delivery.attempt for delivery in found}
            assert attempts == {"killer": number} | ({"bystander": 1} if "bystander" in attempts else {})
            await self.settle(transport, Ack(), *(d for d in found if d.envelope.key == "bystander"))

    async def test_attempts_are_spent_by_failures_alone(self, transport: Transport) -> None:
        self.needs(transport, "exact_attempts")
        await self.declare(transport)
        await self.publish(transport, "o-1")
        outcomes: list[tuple[Outcome, int]] = [
            (Requeue(0, BOOM), 2), (Requeue(0), 2), (Release(), 2), (Requeue(0, BOOM), 3), (Release(), 3),
        ]  # fmt: skip
        for outcome, expected in outcomes:
            await self.settle(transport, outcome, await self.claim_one(transport))
            delivery = await self.claim_one(transport)
            assert delivery.attempt == expected
            await self.settle(transport, Release(), delivery)

    async def test_a_suspect_that_was_handed_back_stays_one(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1")
        await self.claim_one(transport, owner="gone")
        await self.end_leases()
        for owner in ("b", "c"):
            delivery = await self.claim_one(transport, owner=owner, alone=True)
            await self.settle(transport, Release(), delivery)
            claimed = await self.offered(transport, owner=owner)
            assert (list(claimed.deliveries), claimed.suspects) == ([], True)

    @pytest.mark.parametrize("outcome", [Requeue(0, BOOM), Requeue(0)], ids=["failed", "snoozed"])
    async def test_a_suspect_whose_worker_survived_it_is_an_ordinary_delivery(
        self, transport: Transport, outcome: Outcome
    ) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1")
        await self.claim_one(transport, owner="gone")
        await self.end_leases()
        await self.settle(transport, outcome, await self.claim_one(transport, owner="b", alone=True))
        delivery = await self.claim_one(transport, owner="c")
        if transport.traits.exact_attempts:
            assert delivery.attempt == (2 if outcome == Requeue(0, BOOM) else 1)
        await self.end_leases()
        if transport.traits.exact_attempts:
            again = await self.claim_one(transport, owner="d", alone=True)
            assert again.attempt == delivery.attempt

    async def test_a_suspect_that_killed_its_process_stays_one_when_it_is_due(self, transport: Transport) -> None:
        self.needs(transport, "delay", "exact_attempts")
        await self.declare(transport)
        await self.publish(transport, "o-1")
        await self.claim_one(transport, owner="gone")
        await self.end_leases()
        for attempt, after in enumerate((self.lease * 0.5, 0.0, self.lease * 0.5), 1):
            delivery = await self.claim_one(transport, owner=f"w{attempt}", alone=True)
            assert delivery.attempt == attempt
            await self.settle(transport, Requeue(after, BOOM, suspect=True), delivery)
            early = await self.offered(transport, owner="early")
            assert (list(early.deliveries), early.suspects, early.next_due is None) == ([], not after, not after)
            if after:
                assert await self.claim(transport, owner="early", alone=True) == []
            await self.elapse(after * 1.2)
            due = await self.offered(transport, owner="ordinary")
            assert (list(due.deliveries), due.suspects) == ([], True)

    async def test_what_was_settled_is_no_suspect(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2", "o-3")
        found = await self.claim(transport, owner="gone")
        await self.settle(transport, Ack(), found[0], found[2])
        await self.end_leases()
        suspect = await self.claim_one(transport, owner="b", alone=True)
        assert suspect.envelope.id_bytes == found[1].envelope.id_bytes

    async def test_another_owner_that_lives_loses_nothing(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2")
        (dying,) = await self.claim(transport, owner="gone", limit=1)
        (living,) = await self.claim(transport, owner="here", limit=1)
        for _ in range(3):
            await self.elapse(self.lease * 0.5)
            assert await self.renew(transport, living) == []
        assert ids(await self.claim(transport, owner="b", alone=True)) == ids([dying])
        assert await self.claim(transport, owner="c", alone=True) == []
        await self.settle(transport, Ack(), living)

    # -- fencing

    @pytest.mark.parametrize("outcome", _OUTCOMES, ids=lambda outcome: type(outcome).__name__)
    async def test_a_late_settle_is_refused_and_changes_nothing(self, transport: Transport, outcome: Outcome) -> None:
        self.needs(transport, "fenced")
        await self.declare(transport)
        await self.publish(transport, "o-1")
        frozen = await self.claim_one(transport, owner="a")
        await self.end_leases()
        successor = await self.claim_one(transport, owner="b", alone=True)
        assert await self.is_lost(transport, (frozen, outcome))
        assert await self.claim(transport, owner="c") == []
        await self.settle(transport, Ack(), successor)
        assert await self.is_lost(transport, (frozen, outcome))
        assert await self.claim(transport, owner="c") == []
        if transport.traits.exact_attempts:
            desk = inspectable(transport)
            assert [(s.dead, s.backlog, s.retrying) for s in await desk.stats(["receipts"])] == [(0, 0, 0)]

    async def test_a_settle_after_the_end_of_the_lease_is_refused_though_nobody_took_over(
        self, transport: Transport
    ) -> None:
        self.needs(transport, "fenced")
        await self.declare(transport)
        await self.publish(transport, "o-1")
        frozen = await self.claim_one(transport, owner="a")
        await self.end_leases()
        assert await self.is_lost(transport, (frozen, Ack()))
        assert (await self.offered(transport, owner="b")).suspects
        assert len(await self.claim(transport, owner="b", alone=True)) == 1

    async def test_only_its_owner_under_its_fence_settles_a_delivery(self, transport: Transport) -> None:
        self.needs(transport, "fenced")
        await self.declare(transport)
        await self.publish(transport, "o-1")
        first = await self.claim_one(transport, owner="a")
        assert await self.is_lost(transport, (replace(first, owner="thief"), Ack()))
        await self.settle(transport, Release(), first)
        second = await self.claim_one(transport, owner="a")
        assert second.fence > first.fence
        assert await self.is_lost(transport, (first, Ack()))
        await self.settle(transport, Ack(), second)

    async def test_a_second_settle_of_the_same_is_refused(self, transport: Transport) -> None:
        self.needs(transport, "fenced")
        await self.declare(transport)
        await self.publish(transport, "o-1")
        delivery = await self.claim_one(transport)
        results = await transport.settle([(delivery, Requeue(0, BOOM)), (delivery, Ack())])
        assert [type(result) for result in results] == [Settled, LeaseLost]
        assert await self.is_lost(transport, (delivery, Ack()))
        assert len(await self.claim(transport)) == 1

    async def test_one_lost_lease_changes_nothing_for_the_rest_of_the_batch(self, transport: Transport) -> None:
        self.needs(transport, "fenced")
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2", "o-3")
        found = await self.claim(transport)
        await self.settle(transport, Ack(), found[1])
        results = await transport.settle([(delivery, Ack()) for delivery in found])
        assert [type(result) for result in results] == [Settled, LeaseLost, Settled]
        await self.end_leases()
        claimed = await self.offered(transport)
        assert (list(claimed.deliveries), claimed.suspects) == ([], False)

    async def test_a_fence_only_grows(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2")
        last = -1
        for round_ in range(6):
            found = await self.claim(transport, owner=f"w{round_}", limit=1 + round_ % 2)
            assert min(delivery.fence for delivery in found) > last
            last = max(delivery.fence for delivery in found)
            await self.settle(transport, Release() if round_ % 2 else Requeue(0), *found)

    # -- renewal

    async def test_a_renewed_lease_goes_on_for_as_long_as_it_is_renewed(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2")
        found = await self.claim(transport, owner="a")
        for _ in range(6):
            await self.elapse(self.lease * 0.5)
            assert await self.renew(transport, *found) == []
            claimed = await self.offered(transport, owner="b")
            assert (list(claimed.deliveries), claimed.suspects) == ([], False)
        await self.settle(transport, Ack(), *found)

    async def test_what_is_not_renewed_ends_or_lives_as_the_traits_say(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2", "o-3")
        renewed, left, other = await self.claim(transport, owner="a")
        for _ in range(3):
            await self.elapse(self.lease * 0.5)
            assert await self.renew(transport, renewed) == []
        claimed = await self.offered(transport, owner="b")
        assert list(claimed.deliveries) == []
        assert claimed.suspects == (transport.traits.lease_of == "delivery")
        if transport.traits.lease_of == "delivery" and transport.traits.fenced:
            assert await self.is_lost(transport, (left, Ack()))
            assert set(ids(await self.renew(transport, renewed, left, other))) == set(ids([left, other]))
        await self.settle(transport, Ack(), renewed)

    async def test_a_renewal_for_longer_lasts_longer(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1")
        delivery = await self.claim_one(transport, owner="a")
        assert await self.renew(transport, delivery, lease=self.lease * 4) == []
        await self.elapse(self.lease * 2.5)
        assert not (await self.offered(transport, owner="b")).suspects
        await self.elapse(self.lease * 3)
        assert (await self.offered(transport, owner="b")).suspects

    async def test_a_renewal_names_what_is_lost(self, transport: Transport) -> None:
        self.needs(transport, "fenced")
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2")
        found = await self.claim(transport, owner="a")
        await self.end_leases()
        (taken,) = await self.claim(transport, owner="b", alone=True)
        lost = await self.renew(transport, *found)
        assert taken.envelope.id_bytes in ids(lost)
        assert await self.renew(transport, taken) == []

    # -- handing back

    async def test_a_released_delivery_is_ready_at_once_for_another(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "o-1", "o-2")
        found = await self.claim(transport, owner="a")
        await self.settle(transport, Release(), *found)
        again = await self.claim(transport, owner="b")
        assert sorted(ids(again)) == sorted(ids(found))
        assert [delivery.attempt for delivery in again] == [1, 1]

    async def is_lost(self, transport: Transport, settlement: tuple[Delivery, Outcome]) -> bool:
        """Whether this settle is refused."""
        result: Settle = (await transport.settle([settlement]))[0]
        return isinstance(result, LeaseLost)
