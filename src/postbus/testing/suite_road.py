"""The suite, part one: events are stored, fanned out, claimed and settled."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from ..delivery import Ack, Delivery, Release, Requeue
from ..errors import PublishFailed, UnknownSubscription
from ..transport import Duplicate, Outgoing, Refused, Settled, Stored, SubscriptionSpec, Transport
from .suite_ground import BOOM, Ground, ids, keys

__all__ = ["RoadSuite"]


class RoadSuite(Ground):
    """Append, claim, settle."""

    async def test_an_event_is_claimed_once_and_gone_when_done(self, transport: Transport) -> None:
        await self.declare(transport)
        (envelope,) = await self.publish(transport, "o-1")
        delivery = await self.claim_one(transport)
        assert (delivery.envelope.id_bytes, delivery.attempt) == (envelope.id_bytes, 1)
        assert await self.claim(transport, owner="b") == []
        await self.settle(transport, Ack(), delivery)
        await self.end_leases()
        claimed = await self.offered(transport, owner="b")
        assert (list(claimed.deliveries), claimed.next_due, claimed.suspects) == ([], None, False)

    async def test_an_envelope_arrives_as_it_was_sent(self, transport: Transport) -> None:
        await self.declare(transport)
        sent = [
            self.sealed(key="größe/日本 \N{PERSONAL COMPUTER}", body=bytes(range(256)), version=7, format="x/y"),
            self.sealed(
                header_map={"correlationid": "c-1", "note": "naïve “té”"}, expires_micros=1_800_000_000_000_001
            ),
            self.sealed(topic="elsewhere", body=b""),
        ]
        await self.append(transport, *sent)
        received = [delivery.envelope for delivery in await self.claim(transport)]
        assert sorted(received, key=_by_id) == sorted(sent, key=_by_id)

    async def test_each_subscription_has_its_own_copy(self, transport: Transport) -> None:
        for name in ("receipts", "stock"):
            await self.declare(transport, name)
        (envelope,) = await self.publish(transport, "o-1")
        receipt = await self.claim_one(transport, "receipts")
        await self.settle(transport, Requeue(0, BOOM), receipt)
        stock = await self.claim_one(transport, "stock")
        await self.settle(transport, Ack(), stock)
        again = await self.claim_one(transport, "receipts")
        assert again.envelope.id_bytes == stock.envelope.id_bytes == envelope.id_bytes
        assert await self.claim(transport, "stock", owner="b") == []

    async def test_owners_share_the_work_and_no_delivery(self, transport: Transport) -> None:
        await self.declare(transport)
        sent = [self.sealed() for _ in range(60)]
        await self.append(transport, *sent)
        found = await asyncio.gather(
            *(self.claim(transport, owner=f"w{number}", limit=7) for number in range(12)),
        )
        assert sorted(ids([delivery for batch in found for delivery in batch])) == sorted(e.id_bytes for e in sent)

    async def test_new_deliveries_come_in_the_order_of_append(self, transport: Transport) -> None:
        await self.declare(transport)
        sent = [self.sealed() for _ in range(10)]
        await self.append(transport, *sent[:6])
        await self.append(transport, *sent[6:])
        first = await self.claim(transport, limit=4)
        rest = await self.claim(transport, limit=100)
        assert (len(first), len(rest)) == (4, 6)
        assert ids(first + rest) == [envelope.id_bytes for envelope in sent]
        assert await self.claim(transport, limit=0) == []

    @pytest.mark.parametrize(
        ("wants", "topic", "taken"),
        [
            (("orders.order.placed",), None, {"placed"}),
            (("orders.order.placed", "orders.order.shipped"), None, {"placed", "shipped"}),
            (("orders.*.placed",), None, {"placed", "item", "odd"}),
            (("orders.*",), None, set()),
            (("orders.>",), None, {"placed", "shipped", "item", "deep", "odd"}),
            ((">",), None, {"placed", "shipped", "item", "deep", "odd", "user"}),
            (("orders.order.>", "orders.order.placed"), None, {"placed", "shipped", "deep"}),
            (("orders.>",), "orders.order", {"placed", "shipped"}),
            (("orders.order.placed",), "elsewhere", set()),
            (("orders.lot.placed",), "elsewhere", {"odd"}),
        ],
        ids=lambda value: "+".join(sorted(value)) if isinstance(value, set | tuple) else str(value),
    )
    async def test_only_the_events_it_wants_reach_a_subscription(
        self, transport: Transport, wants: tuple[str, ...], topic: str | None, taken: set[str]
    ) -> None:
        await self.declare(transport, wants=wants, topic=topic)
        events: dict[str, dict[str, Any]] = {
            "placed": {"name": "orders.order.placed"},
            "shipped": {"name": "orders.order.shipped"},
            "item": {"name": "orders.item.placed"},
            "deep": {"name": "orders.order.line.added"},
            "odd": {"name": "orders.lot.placed", "topic": "elsewhere"},
            "user": {"name": "identity.user.registered"},
        }
        await self.append(transport, *(self.sealed(key=key, **fields) for key, fields in events.items()))
        received = keys(await self.claim(transport))
        assert (set(received), len(received)) == (taken, len(taken))

    async def test_each_item_of_a_batch_has_its_own_result(self, transport: Transport) -> None:
        await self.declare(transport)
        known = self.sealed()
        await self.append(transport, known)
        unwanted = self.sealed("identity.user.registered")
        results = await transport.append(
            [
                Outgoing(self.sealed()),
                Outgoing(known),
                Outgoing(unwanted, require_subscription=True),
                Outgoing(unwanted),
                Outgoing(self.sealed(), require_subscription=True),
            ]
        )
        assert [type(result) for result in results] == [Stored, Duplicate, Refused, Stored, Stored]
        assert [result.routes for result in results if isinstance(result, Stored)] in ([1, 0, 1], [None] * 3)
        refused = results[2]
        assert isinstance(refused, Refused)
        assert isinstance(refused.error, PublishFailed)
        assert "identity.user.registered" in str(refused.error)
        assert len(await self.claim(transport)) == 3

    async def test_an_empty_batch_is_nothing(self, transport: Transport) -> None:
        assert list(await transport.append([])) == []
        assert list(await transport.settle([])) == []

    async def test_a_subscription_begins_with_what_is_appended_after_it(self, transport: Transport) -> None:
        await self.declare(transport, "stock")
        await self.publish(transport, "before")
        await self.declare(transport, "receipts")
        await self.publish(transport, "after")
        assert keys(await self.claim(transport)) == ["after"]

    async def test_a_subscription_may_begin_with_what_is_still_stored(self, transport: Transport) -> None:
        await self.declare(transport, "stock")
        await self.publish(transport, "done")
        await self.finish(transport, "stock")
        await self.publish(transport, "one")
        await self.publish(transport, self.sealed("orders.order.shipped", key="other"))
        await self.publish(transport, "two")
        await self.declare(transport, "receipts", ["orders.order.placed"], start="earliest")
        await self.declare(transport, "receipts", ["orders.order.placed"], start="earliest")
        await self.publish(transport, "three")
        assert keys(await self.finish(transport)) == ["one", "two", "three"]
        assert keys(await self.finish(transport, "stock")) == ["one", "other", "two", "three"]

    async def test_an_id_is_stored_once(self, transport: Transport) -> None:
        await self.declare(transport)
        envelope, other = self.sealed(), self.sealed()
        results = await self.append(transport, envelope, other, envelope)
        assert [type(result) for result in results] == [Stored, Stored, Duplicate]
        (again,) = await self.append(transport, envelope)
        assert isinstance(again, Duplicate)
        assert len(await self.finish(transport)) == 2
        (afterwards,) = await self.append(transport, envelope)
        assert isinstance(afterwards, Duplicate)
        assert await self.claim(transport) == []

    async def test_an_id_of_any_kind_is_remembered(self, transport: Transport) -> None:
        await self.declare(transport)
        odd = [b"\x00" * 16, b"\xff" * 16, b"\x80" + b"\x00" * 15, bytes(range(16))]
        sent = [self.sealed(id_bytes=event_id) for event_id in odd] + [self.sealed() for _ in range(5)]
        sent += [self.sealed(id_bytes=event_id[::-1]) for event_id in (odd[2], odd[3])]
        assert {type(result) for result in await self.append(transport, *sent)} == {Stored}
        assert {type(result) for result in await self.append(transport, *reversed(sent))} == {Duplicate}
        assert len(await self.finish(transport)) == len(sent)

    async def test_an_id_is_remembered_for_the_whole_window(self, transport: Transport) -> None:
        await self.declare(transport)
        sent = [self.sealed(id_bytes=bytes([number * 40] * 16)) for number in range(6)] + [self.sealed()]
        assert transport.traits.dedup_window >= 600
        await self.append(transport, *sent)
        for _ in range(9):
            await self.elapse_or_skip(transport.traits.dedup_window / 9.1)
            await self.append(transport, self.sealed())
            assert {type(result) for result in await self.append(transport, *sent)} == {Duplicate}

    async def test_publishing_again_at_once_from_many_stores_once(self, transport: Transport) -> None:
        await self.declare(transport)
        envelope = self.sealed()
        results = await asyncio.gather(*(self.append(transport, envelope) for _ in range(10)))
        assert sorted(type(result).__name__ for (result,) in results) == ["Duplicate"] * 9 + ["Stored"]
        assert len(await self.finish(transport)) == 1

    async def test_a_required_subscription_refuses_the_event_for_good(self, transport: Transport) -> None:
        envelope = self.sealed()
        (refused,) = await self.append(transport, envelope, require_subscription=True)
        assert isinstance(refused, Refused)
        await self.declare(transport, start="earliest")
        assert await self.claim(transport) == []
        (stored,) = await self.append(transport, envelope, require_subscription=True)
        assert isinstance(stored, Stored)

    async def test_a_batch_of_thousands_is_carried(self, transport: Transport) -> None:
        await self.declare(transport)
        sent = [self.sealed(key=f"k{number % 7}") for number in range(5_000)]
        results = await self.append(transport, *sent)
        assert {type(result) for result in results} == {Stored}
        claimed = await transport.claim("receipts", owner="a", limit=10_000, lease=self.lease + 60)
        assert ids(claimed.deliveries) == [envelope.id_bytes for envelope in sent]
        await self.settle(transport, Ack(), *claimed.deliveries)
        assert await self.claim(transport) == []

    async def test_a_body_of_a_mebibyte_is_carried(self, transport: Transport) -> None:
        await self.declare(transport)
        body = bytes(range(256)) * 4096
        await self.append(transport, self.sealed(body=body), self.sealed(body=body[::-1]))
        assert [delivery.envelope.body for delivery in await self.claim(transport)] == [body, body[::-1]]

    async def test_a_claim_for_an_unknown_subscription_says_so(self, transport: Transport) -> None:
        await self.declare(transport)
        with pytest.raises(UnknownSubscription, match="nobody"):
            await self.claim(transport, "nobody")

    async def test_outcomes_of_one_batch_may_differ(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.publish(transport, "done", "again", "back")
        found = {delivery.envelope.key: delivery for delivery in await self.claim(transport)}
        results = await transport.settle(
            [(found["again"], Requeue(0, BOOM)), (found["done"], Ack()), (found["back"], Release())]
        )
        assert [type(result) for result in results] == [Settled] * 3
        assert {(d.envelope.key, d.attempt) for d in await self.claim(transport)} == {("again", 2), ("back", 1)}

    async def test_declaring_the_same_again_changes_nothing(self, transport: Transport) -> None:
        spec = await self.declare(transport)
        await self.publish(transport, "o-1")
        running = await self.claim_one(transport)
        assert list(await transport.declare([spec, spec])) == []
        await self.publish(transport, "o-2")
        assert keys(await self.claim(transport, owner="b")) == ["o-2"]
        await self.settle(transport, Ack(), running)

    async def test_a_hundred_subscriptions_take_turns_in_one_batch(self, transport: Transport) -> None:
        specs = [SubscriptionSpec(name=f"s{n}", wants=(f"t{n % 10}.order.*", "all.>")) for n in range(100)]
        assert list(await transport.declare(specs)) == []
        await self.append(transport, *(self.sealed(f"t{n}.order.placed", key=f"t{n}") for n in range(10)))
        await self.append(transport, self.sealed("all.clear", key="all"))
        found: dict[str, list[Delivery]] = {spec.name: await self.claim(transport, spec.name) for spec in specs}
        assert {name: set(keys(batch)) for name, batch in found.items()} == {
            f"s{n}": {f"t{n % 10}", "all"} for n in range(100)
        }

    async def test_envelopes_keep_their_time_to_the_microsecond(self, transport: Transport) -> None:
        await self.declare(transport)
        micros = 1_767_225_600_123_457
        await self.append(transport, self.sealed(micros=micros, expires_micros=micros + 1))
        envelope = (await self.claim_one(transport)).envelope
        assert (envelope.micros, envelope.expires_micros) == (micros, micros + 1)
        assert envelope.expires_at is not None
        assert envelope.expires_at - envelope.time <= timedelta(microseconds=2)


def _by_id(envelope: Any) -> bytes:
    return bytes(envelope.id_bytes)
