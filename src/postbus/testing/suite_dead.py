"""The suite, part five: dead letters keep everything, are found, and come back to one subscription only."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from ..delivery import Ack, Bury, DeadLetter, Failure, Requeue
from ..envelope import Envelope
from ..errors import UnknownSubscription
from ..transport import Amending, DeadQuery, EventQuery, Inspectable, Transport
from .suite_ground import BOOM, Ground, inspectable, keys

__all__ = ["DeadSuite"]

_ALL = DeadQuery()


class DeadSuite(Ground):
    """What becomes of buried deliveries."""

    async def buried(self, transport: Transport, *what: str | Envelope, name: str = "receipts") -> list[DeadLetter]:
        """Publish and bury, one after the other."""
        for one in what:
            await self.publish(transport, one)
            await self.settle(transport, Bury("attempts spent", BOOM), await self.claim_one(transport, name))
            await self.elapse(self.lease * 0.01)
        return list(await inspectable(transport).dead(name, _ALL))

    async def test_a_dead_letter_keeps_bytes_headers_and_why(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        envelope = self.sealed(key="ö-1", body=bytes(range(256)), version=3, header_map={"tenant": "a"})
        await self.publish(transport, envelope)
        await self.settle(transport, Requeue(0, BOOM), await self.claim_one(transport))
        failure = Failure("shop.Broken", "no “way”", "Traceback\n  line\nshop.Broken: no")
        await self.settle(transport, Bury("attempts spent", failure), await self.claim_one(transport))
        (letter,) = await desk.dead("receipts", _ALL)
        assert letter.envelope == envelope
        assert (letter.subscription, letter.reason, letter.failure) == ("receipts", "attempts spent", failure)
        assert letter.error == str(failure)
        assert letter.attempts == (2 if transport.traits.exact_attempts else letter.attempts)
        assert letter.buried_at.utcoffset() == timedelta(0)
        assert abs(letter.buried_at - datetime.fromtimestamp(self.clock.time(), UTC)) < timedelta(minutes=1)

    async def test_a_burial_without_failure_spends_nothing(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        await self.publish(transport, "o-1")
        await self.settle(transport, Bury("expired"), await self.claim_one(transport))
        (letter,) = await desk.dead("receipts", _ALL)
        assert (letter.reason, letter.error, letter.failure) == ("expired", "", None)
        assert letter.attempts == (0 if transport.traits.exact_attempts else letter.attempts)

    async def test_what_is_dead_is_not_delivered(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.buried(transport, "o-1")
        await self.end_leases()
        claimed = await self.offered(transport)
        assert (list(claimed.deliveries), claimed.suspects, claimed.next_due) == ([], False, None)

    async def test_letters_are_listed_by_burial_with_the_same_ids_each_time(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        letters = await self.buried(transport, "c", "a", "b")
        assert [letter.envelope.key for letter in letters] == ["c", "a", "b"]
        assert list(await desk.dead("receipts", _ALL)) == letters
        assert list(await desk.dead(None, _ALL)) == letters
        assert len({letter.id for letter in letters}) == 3

    async def test_the_same_event_may_be_dead_for_two_subscriptions(self, transport: Transport) -> None:
        desk = inspectable(transport)
        for name in ("receipts", "stock"):
            await self.declare(transport, name)
        (envelope,) = await self.publish(transport, "o-1")
        for name in ("receipts", "stock"):
            await self.settle(transport, Bury(f"by {name}"), await self.claim_one(transport, name))
        letters = await desk.dead(None, DeadQuery(ids=(envelope.id,)))
        assert [(letter.subscription, letter.reason) for letter in letters] == [
            ("receipts", "by receipts"), ("stock", "by stock"),
        ]  # fmt: skip
        assert letters[0].id != letters[1].id
        assert [letter.subscription for letter in await desk.dead("stock", _ALL)] == ["stock"]

    async def test_a_replay_reaches_that_subscription_only_with_no_attempt_spent(self, transport: Transport) -> None:
        desk = inspectable(transport)
        for name in ("receipts", "stock"):
            await self.declare(transport, name)
        await self.publish(transport, "o-1", "o-2")
        await self.finish(transport, "stock")
        for delivery in await self.claim(transport):
            await self.settle(transport, Bury("enough", BOOM), delivery)
        first, second = await desk.dead("receipts", _ALL)
        assert await desk.replay("receipts", [first.id]) == 1
        again = await self.claim_one(transport)
        assert (again.envelope, again.attempt) == (first.envelope, 1)
        assert await self.claim(transport, "stock") == []
        assert [letter.id for letter in await desk.dead("receipts", _ALL)] == [second.id]
        assert await desk.replay("receipts", [first.id]) == 0
        await self.settle(transport, Ack(), again)

    async def test_a_letter_is_replayed_once_however_often_it_is_named(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        letters = await self.buried(transport, "o-1", "o-2", "o-3")
        wanted = [letter.id for letter in letters] * 2 + [UUID(int=7)]
        assert await desk.replay("receipts", wanted) == 3
        assert sorted(keys(await self.claim(transport)), key=str) == ["o-1", "o-2", "o-3"]

    async def test_what_is_replayed_may_die_again(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        (letter,) = await self.buried(transport, "o-1")
        for number in range(3):
            assert await desk.replay("receipts", [letter.id]) == 1
            delivery = await self.claim_one(transport)
            assert delivery.attempt == 1
            await self.settle(transport, Bury(f"again {number}", BOOM), delivery)
            before = letter
            (letter,) = await desk.dead("receipts", _ALL)
            assert letter.reason == f"again {number}"
            assert letter.id != before.id, (
                "each burial is a letter of its own: who acts on the older one acts on nothing"
            )
            assert await desk.replay("receipts", [before.id]) == 0

    async def test_what_a_seek_delivers_again_is_dead_no_longer(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        (letter,) = await self.buried(transport, "o-1")
        assert await desk.seek("receipts", datetime.fromtimestamp(0, UTC)) == 1
        assert await desk.dead("receipts", _ALL) == []
        delivery = await self.claim_one(transport)
        assert (delivery.envelope, delivery.attempt) == (letter.envelope, 1)
        await self.settle(transport, Bury("again", BOOM), delivery)
        (again,) = await desk.dead("receipts", _ALL)
        assert (again.reason, again.id == letter.id) == ("again", False)

    async def test_another_subscriptions_letters_are_left_alone(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        await self.declare(transport, "stock", ["nothing.>"])
        (letter,) = await self.buried(transport, "o-1")
        assert await desk.replay("stock", [letter.id]) == 0
        assert await desk.discard("stock", [letter.id]) == 0
        assert list(await desk.dead("receipts", _ALL)) == [letter]

    async def test_a_discarded_letter_is_gone_for_good(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        first, second = await self.buried(transport, "o-1", "o-2")
        assert await desk.discard("receipts", [first.id, first.id]) == 1
        assert await desk.discard("receipts", [first.id]) == 0
        assert list(await desk.dead("receipts", _ALL)) == [second]
        assert await self.claim(transport) == []

    async def test_pages_follow_one_another_without_gap_or_double(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        letters = await self.buried(transport, *(f"o-{number}" for number in range(7)))
        pages = [list(page) for page in await self.pages(desk, 3)]
        assert [len(page) for page in pages] == [3, 3, 1]
        assert [letter for page in pages for letter in page] == letters

    async def pages(self, desk: Inspectable, limit: int) -> list[list[DeadLetter]]:
        """All pages of one subscription."""
        pages: list[list[DeadLetter]] = []
        after: UUID | None = None
        while page := list(await desk.dead("receipts", _ALL, limit=limit, after=after)):
            pages.append(page)
            after = page[-1].id
        return pages

    async def test_a_page_goes_on_behind_a_letter_that_is_gone(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        letters = await self.buried(transport, "o-1", "o-2", "o-3", "o-4")
        await desk.discard("receipts", [letters[1].id])
        await desk.replay("receipts", [letters[2].id])
        for gone in letters[1:3]:
            assert list(await desk.dead("receipts", _ALL, after=gone.id)) == letters[3:]

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ({"name": "orders.order.placed"}, {"a", "b"}),
            ({"name": "orders.*.shipped"}, {"c"}),
            ({"key": "b"}, {"b"}),
            ({"error": "timeOUT"}, {"b", "c"}),
            ({"error": "shop.broken"}, {"a"}),
            ({"error": "100%"}, {"c"}),
            ({"error": "_"}, set()),
            ({"reason": "SPENT"}, {"a"}),
            ({"reason": "no", "key": "b"}, {"b"}),
            ({"name": "orders.order.placed", "key": "c"}, set()),
        ],
        ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else str(value),
    )
    async def test_letters_are_found_by_what_is_known_of_them(
        self, transport: Transport, query: dict[str, str], found: set[str]
    ) -> None:
        await self.declare(transport)
        shop = [
            ("a", "orders.order.placed", Failure("shop.Broken", "no way"), "attempts spent"),
            ("b", "orders.order.placed", Failure("TimeoutError", "after 3 s"), "no more"),
            ("c", "orders.order.shipped", Failure("OSError", "Timeout at 100% load"), "no more"),
        ]
        for key, name, failure, reason in shop:
            await self.publish(transport, self.sealed(name, key))
            await self.settle(transport, Bury(reason, failure), await self.claim_one(transport))
        letters = await inspectable(transport).dead("receipts", DeadQuery(**query))  # type: ignore[arg-type]
        assert {letter.envelope.key for letter in letters} == found

    async def test_letters_are_found_by_id_and_by_age(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        letters = await self.buried(transport, "a")
        await self.elapse(self.lease)
        letters = await self.buried(transport, "b", "c")
        by_ids = await desk.dead("receipts", DeadQuery(ids=(letters[0].id, letters[2].envelope.id, UUID(int=7))))
        assert [letter.envelope.key for letter in by_ids] == ["a", "c"]
        assert list(await desk.dead("receipts", DeadQuery(ids=()))) == []
        old = await desk.dead("receipts", DeadQuery(before=letters[1].buried_at))
        assert [letter.envelope.key for letter in old] == ["a"]

    async def test_filtered_pages_are_full(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        await self.buried(transport, *(self.sealed(key="even" if n % 2 == 0 else "odd") for n in range(8)))
        query = DeadQuery(key="odd", name="orders.>")
        first = await desk.dead("receipts", query, limit=3)
        rest = await desk.dead("receipts", query, limit=3, after=first[-1].id)
        assert [letter.envelope.key for letter in (*first, *rest)] == ["odd"] * 4
        assert len(first) == 3

    async def test_an_unknown_subscription_has_no_letters_but_an_error(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        with pytest.raises(UnknownSubscription):
            await desk.dead("nobody", _ALL)
        with pytest.raises(UnknownSubscription):
            await desk.replay("nobody", [])
        with pytest.raises(UnknownSubscription):
            await desk.discard("nobody", [])

    # -- amended

    async def test_an_amended_letter_holds_the_new_event_and_stays_dead(self, transport: Transport) -> None:
        desk = inspectable(transport)
        if not isinstance(transport, Amending):
            pytest.skip(f"{transport.traits.name} amends no dead letters")
        await self.declare(transport)
        old = self.sealed(key="o-1", body=b"wrong", header_map={"tenant": "a"})
        (letter,) = await self.buried(transport, old)
        new = self.sealed(key="o-1", body=b"right", header_map={"causationid": str(old.id)})
        assert await transport.amend("receipts", letter.id, new)
        (found,) = await desk.dead("receipts", _ALL)
        assert found.envelope == new
        assert (found.id, found.attempts, found.reason) == (letter.id, letter.attempts, letter.reason)
        assert (found.failure, found.buried_at) == (letter.failure, letter.buried_at)
        assert await self.claim(transport) == []
        (stored,) = await desk.events(EventQuery(id=new.id))
        assert stored.states == {"receipts": "dead"}
        assert await desk.replay("receipts", [letter.id]) == 1
        delivery = await self.claim_one(transport)
        assert (delivery.envelope, delivery.attempt) == (new, 1)
        await self.settle(transport, Ack(), delivery)
        assert await desk.events(EventQuery(id=new.id)) == []

    async def test_an_amendment_reaches_one_subscription_only(self, transport: Transport) -> None:
        desk = inspectable(transport)
        if not isinstance(transport, Amending):
            pytest.skip(f"{transport.traits.name} amends no dead letters")
        await self.declare(transport, "receipts")
        await self.declare(transport, "ledger")
        old = self.sealed(key="o-1", body=b"wrong")
        (letter,) = await self.buried(transport, old)
        assert not await transport.amend("ledger", letter.id, self.sealed(key="o-1", body=b"right"))
        assert await transport.amend("receipts", letter.id, self.sealed(key="o-1", body=b"right"))
        assert not await transport.amend("receipts", UUID(int=letter.id.int ^ 1 << 64), old)
        (delivery,) = await self.claim(transport, "ledger")
        assert delivery.envelope == old
        await self.settle(transport, Ack(), delivery)
        assert await desk.discard("receipts", [letter.id]) == 1
        assert await desk.events(EventQuery()) == []

    async def test_an_amended_letter_that_held_its_key_goes_before_those_behind_it(self, transport: Transport) -> None:
        self.needs(transport, "ordered")
        desk = inspectable(transport)
        if not isinstance(transport, Amending):
            pytest.skip(f"{transport.traits.name} amends no dead letters")
        await self.declare(transport, ordered=True, on_bury="park")
        (letter,) = await self.buried(transport, self.sealed(key="o-1", body=b"wrong"))
        behind = self.sealed(key="o-1", body=b"second")
        await self.publish(transport, behind)
        right = self.sealed(key="o-1", body=b"right")
        assert await transport.amend("receipts", letter.id, right)
        assert await self.claim(transport) == []
        assert await desk.replay("receipts", [letter.id]) == 1
        first = await self.claim_one(transport)
        assert first.envelope == right
        await self.settle(transport, Ack(), first)
        assert (await self.claim_one(transport)).envelope == behind
