"""The suite, part six: figures, stored events, history and workers, as CLI and dashboard see them."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from ..delivery import Ack, Bury, Requeue
from ..envelope import CORRELATION, Envelope
from ..errors import UnknownSubscription
from ..transport import EventQuery, StoredEvent, SubscriptionStats, Transport, WorkerInfo
from .suite_ground import BOOM, Ground, inspectable, keys

__all__ = ["DeskSuite"]

_RETAIN = 300.0  # in leases


class DeskSuite(Ground):
    """What `Inspectable` shows."""

    async def test_a_ping_takes_time(self, transport: Transport) -> None:
        assert 0 <= await inspectable(transport).ping() < 5

    # -- figures

    async def test_figures_are_exact(self, transport: Transport) -> None:
        self.needs(transport, "delay", "exact_attempts")
        await self.declare(transport)
        assert await self.stats(transport) == SubscriptionStats(name="receipts")
        await self.publish(transport, *(f"o-{number}" for number in range(10)))
        await self.publish(transport, "late-1", "late-2", delay=self.lease * 0.8)
        first = await self.claim(transport, owner="gone", limit=6)
        await self.settle(transport, Ack(), first[0])
        await self.settle(transport, Bury("enough", BOOM), first[1])
        await self.settle(transport, Requeue(self.lease * 4, BOOM), first[2], first[3])
        await self.settle(transport, Requeue(0, BOOM), first[4])
        stats = await self.stats(transport)
        assert _counts(stats) == {"backlog": 5, "in_flight": 1, "scheduled": 2, "retrying": 2, "dead": 1}
        assert stats.next_due is not None
        assert 0 < stats.next_due <= self.lease * 0.81
        await self.end_leases()
        await self.claim(transport, owner="b", limit=0)
        await self.claim(transport, owner="b", limit=1)
        stats = await self.stats(transport)
        assert _counts(stats) == {"backlog": 7, "in_flight": 1, "scheduled": 0, "retrying": 2, "dead": 1}
        assert (stats.parked, stats.parked_events, stats.workers, stats.paused) == (0, 0, 0, False)

    async def test_the_age_is_that_of_the_oldest_unfinished_event(self, transport: Transport) -> None:
        self.needs(transport, "delay")
        await self.declare(transport)
        await self.publish(transport, "buried")
        await self.settle(transport, Bury("enough"), await self.claim_one(transport))
        await self.publish(transport, "retried")
        await self.settle(transport, Requeue(self.lease * 3), await self.claim_one(transport))
        assert (await self.stats(transport)).oldest_age is None
        await self.elapse(self.lease)
        await self.publish(transport, "oldest")
        await self.elapse(self.lease)
        await self.publish(transport, "newest")
        age = (await self.stats(transport)).oldest_age
        assert age is not None
        assert self.lease <= age < self.lease * 2
        found = await self.claim(transport)
        assert (await self.stats(transport)).oldest_age is not None
        await self.settle(transport, Ack(), *found)
        assert (await self.stats(transport)).oldest_age is None

    async def test_figures_of_all_come_by_name_and_unknown_ones_are_left_out(self, transport: Transport) -> None:
        desk = inspectable(transport)
        for name in ("b", "c", "a"):
            await self.declare(transport, name)
        assert [stats.name for stats in await desk.stats()] == ["a", "b", "c"]
        assert [stats.name for stats in await desk.stats(["c", "nobody", "a"])] == ["a", "c"]
        assert list(await desk.stats([])) == []

    # -- events

    async def test_events_say_where_each_subscription_stands(self, transport: Transport) -> None:
        self.needs(transport, "ordered", "delay")
        await self.declare(transport, ordered=True)
        await self.declare(transport, "stock", ["stock.>"])
        await self.publish(transport, self.sealed("stock.item.sold", "done"))
        await self.finish(transport, "stock")
        await self.publish(transport, "a", "b", "b", "c", "d")
        by_key = {delivery.envelope.key: delivery for delivery in await self.claim(transport)}
        await self.settle(transport, Bury("enough"), by_key["a"])
        await self.settle(transport, Requeue(self.lease * 9), by_key["c"])
        await self.settle(transport, Requeue(0), by_key["d"])
        await self.publish(transport, "e", delay=self.lease)
        states = [(event.envelope.key, event.states.get("receipts")) for event in await self.events(transport)]
        assert states == [
            ("e", "scheduled"), ("d", "ready"), ("c", "retrying"), ("b", "waiting"), ("b", "running"), ("a", "dead"),
        ]  # fmt: skip

    async def events(self, transport: Transport, limit: int = 100, **query: object) -> list[StoredEvent]:
        """Stored events, in pages of `limit`, together."""
        desk = inspectable(transport)
        found: list[StoredEvent] = []
        after: str | None = None
        while page := await desk.events(EventQuery(**query), limit=limit, after=after):  # type: ignore[arg-type]
            assert len(page) <= limit
            found += page
            after = page[-1].cursor
        return found

    async def test_events_come_newest_first_in_pages(self, transport: Transport) -> None:
        for name in ("receipts", "stock"):
            await self.declare(transport, name)
        for number in range(7):
            await self.publish(transport, f"o-{number}")
            await self.elapse(self.lease * 0.01)
        found = await self.events(transport, limit=3)
        assert [event.envelope.key for event in found] == [f"o-{number}" for number in range(6, -1, -1)]
        assert all(event.states == {"receipts": "ready", "stock": "ready"} for event in found)

    async def test_events_are_found_by_what_is_known_of_them(self, transport: Transport) -> None:
        await self.declare(transport)
        first = self.sealed("orders.order.placed", "a", header_map={CORRELATION: "c-1"})
        second = self.sealed("orders.order.shipped", "a")
        third = self.sealed("orders.item.placed", "b", header_map={CORRELATION: "c-1"})
        for envelope in (first, second, third):
            await self.publish(transport, envelope)
            await self.elapse(self.lease * 0.01)
        queries: list[tuple[dict[str, object], Sequence[object]]] = [
            ({"id": second.id}, [second]),
            ({"name": "orders.order.placed"}, [first]),
            ({"name": "orders.*.placed"}, [third, first]),
            ({"key": "a"}, [second, first]),
            ({"correlation_id": "c-1"}, [third, first]),
            ({"key": "b", "name": "orders.order.placed"}, []),
        ]
        for query, expected in queries:
            assert [event.envelope for event in await self.events(transport, limit=1, **query)] == expected

    async def test_events_are_found_by_when_they_were_published(self, transport: Transport) -> None:
        await self.declare(transport)
        (first,) = await self.publish(transport, "a")
        await self.elapse(self.lease * 0.01)
        (second,) = await self.publish(transport, "b")
        queries: list[tuple[dict[str, Any], list[Envelope]]] = [
            ({"since": first.time}, [second, first]),
            ({"since": second.time, "before": second.time + timedelta(microseconds=1)}, [second]),
            ({"before": second.time}, [first]),
            ({"since": second.time, "key": "a"}, []),
        ]
        for query, expected in queries:
            assert [event.envelope for event in await self.events(transport, **query)] == expected

    async def test_the_newest_events_are_found_among_many_letters(self, transport: Transport) -> None:
        """Those buried last are not those published last."""
        await self.declare(transport)
        sealed = [self.sealed(key=f"o-{number}") for number in range(240)]
        await self.append(transport, *sealed)
        held = await self.claim(transport, limit=240)
        await self.settle(transport, Bury("enough", BOOM), *held[120:])
        await self.settle(transport, Bury("enough", BOOM), *held[:120])
        await self.publish(transport, "new-0", "new-1")
        found = await inspectable(transport).events(EventQuery(), limit=50)
        assert _places(found) == ["new-1", "new-0", *(f"o-{number}" for number in range(239, 191, -1))]
        assert [event.states for event in found[2:]] == [{"receipts": "dead"}] * 48
        more = await inspectable(transport).events(EventQuery(), limit=150, after=found[-1].cursor)
        assert _places(more) == [f"o-{number}" for number in range(191, 41, -1)]
        (one,) = await inspectable(transport).events(EventQuery(key="o-7"), limit=50)
        assert one.envelope.key == "o-7"

    # -- history

    async def kept(self, transport: Transport) -> Transport:
        """The same store, opened by a bus that keeps history."""
        self.needs(transport, "history")
        await transport.close()
        opened = await self.open(retain=self.lease * _RETAIN)
        await self.declare(opened)
        return opened

    async def test_finished_events_stay_in_the_history(self, transport: Transport) -> None:
        kept = await self.kept(transport)
        await self.publish(kept, "o-1", "o-2")
        await self.finish(kept)
        assert [event.states for event in await self.events(kept)] == [{}, {}]
        assert (await self.stats(kept)).backlog == 0
        await self.elapse_or_skip(self.lease * _RETAIN * 1.1)
        await self.publish(kept, "o-3")
        async with asyncio.timeout(10):
            while len(await self.events(kept)) > 1:  # noqa: ASYNC110 - it tidies up in its own time, and rings no bell
                await asyncio.sleep(0.01)

    async def test_history_comes_again_to_one_subscription(self, transport: Transport) -> None:
        kept = await self.kept(transport)
        await self.declare(kept, "stock")
        await self.publish(kept, "old")
        await self.elapse(self.lease)
        since = datetime.fromtimestamp(self.clock.time(), UTC)
        await self.publish(kept, "done")
        await self.publish(kept, self.sealed("orders.order.shipped", "also done"))
        await self.finish(kept, "stock")
        await self.finish(kept)
        await self.elapse(self.lease)
        await self.publish(kept, "waiting", "running")
        held = (await self.claim(kept, limit=1))[0]
        assert await inspectable(kept).seek("receipts", since) == 2
        assert keys([held, *await self.claim(kept)]) in (
            ["waiting", "running", "done", "also done"],
            ["waiting", "done", "also done", "running"],
        )
        assert set(keys(await self.claim(kept, "stock"))) == {"waiting", "running"}

    async def test_a_late_subscription_may_begin_with_the_history(self, transport: Transport) -> None:
        kept = await self.kept(transport)
        await self.publish(kept, "one", "two")
        await self.finish(kept)
        await self.declare(kept, "late", start="earliest")
        assert keys(await self.claim(kept, "late")) == ["one", "two"]

    async def test_without_retain_what_is_done_is_gone(self, transport: Transport) -> None:
        await self.declare(transport)
        await self.declare(transport, "stock")
        await self.publish(transport, "o-1")
        await self.finish(transport)
        assert len(await self.events(transport)) == 1
        await self.finish(transport, "stock")
        assert await self.events(transport) == []

    # -- workers

    async def test_a_worker_is_seen_while_it_beats(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        await self.declare(transport, "stock")
        await self.beat(transport, "w-1", "receipts", "stock")
        await self.beat(transport, "w-2", "receipts")
        seen = {worker.owner: worker for worker in await desk.workers()}
        assert sorted(seen) == ["w-1", "w-2"]
        assert (seen["w-1"].subscriptions, seen["w-1"].concurrency) == (("receipts", "stock"), 7)
        assert {stats.name: stats.workers for stats in await desk.stats()} == {"receipts": 2, "stock": 1}
        await self.beat(transport, "w-1", "receipts", state="gone")
        assert [worker.owner for worker in await desk.workers()] == ["w-2"]
        await self.end_leases()
        assert list(await desk.workers()) == []
        assert (await self.stats(transport)).workers == 0

    async def test_a_worker_that_goes_on_beating_goes_on_being_seen(self, transport: Transport) -> None:
        desk = inspectable(transport)
        for number in range(4):
            await self.beat(transport, "w-1", "receipts", busy=number)
            await self.elapse(self.lease * 0.5)
            (worker,) = await desk.workers()
            assert worker.busy == number

    async def beat(
        self,
        transport: Transport,
        owner: str,
        *subscriptions: str,
        state: Literal["running", "draining", "gone"] = "running",
        busy: int = 0,
    ) -> None:
        """Say that a worker lives, as its thread does."""
        worker = WorkerInfo(
            owner=owner, host="here", pid=1, version="1.0", started_at=datetime(2026, 1, 1, tzinfo=UTC),
            subscriptions=subscriptions, concurrency=7, busy=busy, state=state,
        )  # fmt: skip

        def in_thread() -> None:
            renewer = transport.renewer()
            try:
                renewer.renew([], self.lease)
                renewer.beat(worker)
            finally:
                renewer.close()

        await asyncio.to_thread(in_thread)

    # -- names

    async def test_who_names_an_unknown_subscription_hears_of_it(self, transport: Transport) -> None:
        desk = inspectable(transport)
        await self.declare(transport)
        for act in (desk.pause, desk.resume, desk.retire):
            with pytest.raises(UnknownSubscription, match="nobody"):
                await act("nobody")
        with pytest.raises(UnknownSubscription, match="nobody"):
            await desk.rename("nobody", "somebody")
        with pytest.raises(UnknownSubscription, match="nobody"):
            await desk.seek("nobody", datetime(2026, 1, 1, tzinfo=UTC))


def _counts(stats: SubscriptionStats) -> dict[str, int]:
    return {name: getattr(stats, name) for name in ("backlog", "in_flight", "scheduled", "retrying", "dead")}


def _places(found: Sequence[StoredEvent]) -> list[str | None]:
    return [event.envelope.key for event in found]
