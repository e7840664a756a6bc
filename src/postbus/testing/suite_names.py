"""The suite, part seven: subscriptions are declared, declared anew, paused, renamed and retired."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ..delivery import Ack, Bury
from ..errors import ConfigError, LeaseLost, UnknownSubscription
from ..transport import DeadQuery, SubscriptionSpec, Transport
from .suite_ground import BOOM, Ground, inspectable, keys

__all__ = ["NameSuite"]

_OLD = SubscriptionSpec(name="receipts", wants=("orders.order.placed",))
_NEW = SubscriptionSpec(name="receipts", wants=("orders.order.shipped",))


class NameSuite(Ground):
    """What becomes of subscriptions when code and people change."""

    async def test_subscriptions_are_listed_by_name_as_declared(self, transport: Transport) -> None:
        desk = inspectable(transport)
        specs = [
            SubscriptionSpec(name="stock", wants=("orders.>",), ordered=True, on_bury="park", handler="shop:stock"),
            SubscriptionSpec(name="receipts", wants=("orders.order.*", "a.b"), topic="orders.order", topics=("a",)),
        ]
        await transport.declare(specs)
        assert [info.spec for info in await desk.subscriptions()] == [specs[1], specs[0]]
        infos = await desk.subscriptions()
        assert [(info.name, info.paused) for info in infos] == [("receipts", False), ("stock", False)]
        assert len({info.id for info in infos}) == 2

    # -- declared anew

    async def test_a_new_declaration_counts_from_now_on(self, transport: Transport) -> None:
        await transport.declare([_OLD])
        await self.publish(transport, self.sealed("orders.order.placed", "kept"))
        assert list(await transport.declare([_NEW])) == []
        await self.publish(transport, self.sealed("orders.order.shipped", "wanted"))
        await self.publish(transport, self.sealed("orders.order.placed", "unwanted"))
        assert keys(await self.claim(transport)) == ["kept", "wanted"]

    async def test_an_older_declaration_is_reported_and_not_applied(self, transport: Transport) -> None:
        await transport.declare([_OLD])
        await transport.declare([_NEW])
        (conflict,) = await transport.declare([_OLD])
        assert conflict.subscription == "receipts"
        assert conflict.message
        assert list(await transport.declare([_NEW])) == []
        await self.publish(transport, self.sealed("orders.order.placed", "unwanted"))
        await self.publish(transport, self.sealed("orders.order.shipped", "wanted"))
        assert keys(await self.claim(transport)) == ["wanted"]

    async def test_the_newest_deploy_may_mean_an_older_declaration(self, transport: Transport) -> None:
        await transport.declare([_OLD])
        await transport.declare([_NEW])
        assert list(await transport.declare([_OLD], newest=True)) == []
        assert list(await transport.declare([_OLD])) == []
        assert len(list(await transport.declare([_NEW]))) == 1
        await self.publish(transport, self.sealed("orders.order.placed", "wanted"))
        assert keys(await self.claim(transport)) == ["wanted"]

    async def test_where_the_code_is_makes_no_conflict(self, transport: Transport) -> None:
        moved = replace(_OLD, handler="elsewhere:receipts", topics=("orders.order",))
        for spec in (_OLD, moved, _OLD, moved):
            assert list(await transport.declare([spec])) == []

    async def test_many_declare_at_once(self, transport: Transport) -> None:
        specs = [SubscriptionSpec(name=f"s{number}", wants=("orders.>",)) for number in range(5)]
        found = await asyncio.gather(*(transport.declare(specs) for _ in range(5)))
        assert [list(conflicts) for conflicts in found] == [[]] * 5
        await self.publish(transport, "o-1")
        for spec in specs:
            assert len(await self.claim(transport, spec.name)) == 1

    # -- paused

    async def test_a_paused_subscription_gives_nothing_and_keeps_everything(self, transport: Transport) -> None:
        self.needs(transport, "pause")
        desk = inspectable(transport)
        for name in ("receipts", "stock"):
            await self.declare(transport, name)
        await self.publish(transport, "running", "waiting")
        (running,) = await self.claim(transport, limit=1)
        for _ in range(2):
            await desk.pause("receipts")
        await self.publish(transport, "later")
        assert await self.claim(transport, owner="b") == []
        assert len(await self.claim(transport, "stock")) == 3
        stats = await self.stats(transport)
        assert (stats.paused, stats.backlog, stats.in_flight) == (True, 2, 1)
        assert [info.paused for info in await desk.subscriptions()] == [True, False]
        await self.settle(transport, Ack(), running)
        await self.declare(transport)
        assert await self.claim(transport, owner="b") == []
        for _ in range(2):
            await desk.resume("receipts")
        assert keys(await self.claim(transport, owner="b")) == ["waiting", "later"]

    async def test_suspects_wait_for_the_resume_too(self, transport: Transport) -> None:
        self.needs(transport, "pause")
        desk = inspectable(transport)
        await self.declare(transport)
        await self.publish(transport, "o-1")
        await self.claim(transport, owner="gone")
        await desk.pause("receipts")
        await self.end_leases()
        assert await self.claim(transport, owner="b", alone=True) == []
        await desk.resume("receipts")
        assert len(await self.claim(transport, owner="b", alone=True)) == 1

    # -- renamed

    async def test_a_renamed_subscription_keeps_what_it_has(self, transport: Transport) -> None:
        self.needs(transport, "rename")
        desk = inspectable(transport)
        await self.declare(transport)
        (before,) = await desk.subscriptions()
        await self.publish(transport, "dead", "running", "waiting")
        dead, running = await self.claim(transport, limit=2)
        await self.settle(transport, Bury("enough", BOOM), dead)
        await desk.rename("receipts", "invoices")
        (after,) = await desk.subscriptions()
        assert (after.name, after.id) == ("invoices", before.id)
        with pytest.raises(UnknownSubscription):
            await self.claim(transport, "receipts")
        await self.publish(transport, "new")
        await self.settle(transport, Ack(), running)
        assert keys(await self.claim(transport, "invoices")) == ["waiting", "new"]
        (letter,) = await desk.dead("invoices", DeadQuery())
        assert letter.subscription == "invoices"
        await desk.replay("invoices", [letter.id])
        assert keys(await self.claim(transport, "invoices")) == ["dead"]

    async def test_a_taken_name_is_refused(self, transport: Transport) -> None:
        self.needs(transport, "rename")
        desk = inspectable(transport)
        for name in ("receipts", "stock"):
            await self.declare(transport, name)
        with pytest.raises(ConfigError, match="stock"):
            await desk.rename("receipts", "stock")
        assert [info.name for info in await desk.subscriptions()] == ["receipts", "stock"]

    async def test_a_declaration_may_say_what_it_was(self, transport: Transport) -> None:
        self.needs(transport, "rename")
        await self.declare(transport)
        await self.publish(transport, "waiting")
        for _ in range(2):
            await self.declare(transport, "invoices", was="receipts")
        await self.publish(transport, "new")
        assert keys(await self.claim(transport, "invoices")) == ["waiting", "new"]
        assert [info.name for info in await inspectable(transport).subscriptions()] == ["invoices"]

    @pytest.mark.parametrize("way", ["declared", "by hand"])
    async def test_the_old_name_makes_no_second_subscription(self, transport: Transport, way: str) -> None:
        self.needs(transport, "rename")
        desk = inspectable(transport)
        old = await self.declare(transport)
        if way == "declared":
            await self.declare(transport, "invoices", was="receipts")
        else:
            await desk.rename("receipts", "invoices")
        assert [conflict.subscription for conflict in await transport.declare([old])] == ["receipts"]
        assert [info.name for info in await desk.subscriptions()] == ["invoices"]

    async def test_a_rename_can_be_taken_back(self, transport: Transport) -> None:
        self.needs(transport, "rename")
        desk = inspectable(transport)
        old = await self.declare(transport)
        await self.publish(transport, "waiting")
        await self.declare(transport, "invoices", was="receipts")
        assert list(await transport.declare([old], newest=True)) == []
        assert [info.name for info in await desk.subscriptions()] == ["receipts"]
        assert keys(await self.claim(transport)) == ["waiting"]

    # -- retired

    async def test_a_retired_subscription_goes_with_all_it_holds(self, transport: Transport) -> None:
        desk = inspectable(transport)
        for name in ("receipts", "stock"):
            await self.declare(transport, name)
        await self.publish(transport, "dead", "running", "waiting", "delayed")
        dead, running = await self.claim(transport, limit=2)
        await self.settle(transport, Bury("enough"), dead)
        assert await desk.retire("receipts") == 4
        with pytest.raises(UnknownSubscription):
            await self.claim(transport)
        assert [info.name for info in await desk.subscriptions()] == ["stock"]
        assert list(await desk.dead(None, DeadQuery())) == []
        (result,) = await transport.settle([(running, Ack())])
        assert isinstance(result, LeaseLost)
        await self.publish(transport, "new")
        assert len(await self.finish(transport, "stock")) == 5

    async def test_a_retired_name_may_be_declared_afresh(self, transport: Transport) -> None:
        desk = inspectable(transport)
        spec = await self.declare(transport)
        (before,) = await desk.subscriptions()
        await self.publish(transport, "old")
        await desk.retire("receipts")
        assert list(await transport.declare([spec])) == []
        (after,) = await desk.subscriptions()
        assert after.id != before.id
        await self.publish(transport, "new")
        assert keys(await self.claim(transport)) == ["new"]

    async def test_an_ordered_subscription_is_retired_with_its_keys(self, transport: Transport) -> None:
        self.needs(transport, "ordered")
        desk = inspectable(transport)
        await self.declare(transport, ordered=True)
        await self.publish(transport, "k", "k", "k")
        await self.claim(transport)
        assert await desk.retire("receipts") == 3
        await self.declare(transport, ordered=True)
        await self.publish(transport, "k")
        assert len(await self.claim(transport)) == 1
