"""The suite, part ten: retries are seen, made due at once and let go of, where a transport can; see `Hastening`."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

from collections.abc import Sequence

import pytest

from ..delivery import Ack, Requeue
from ..errors import UnknownSubscription
from ..retrying import Hastening, Retrying
from ..transport import Transport
from .suite_ground import BOOM, Ground, keys

__all__ = ["RetriesSuite"]


class RetriesSuite(Ground):
    """What `Hastening` promises."""

    def _desk(self, transport: Transport) -> Hastening:
        self.needs(transport, "delay", "exact_attempts")
        if not isinstance(transport, Hastening):
            pytest.skip(f"{transport.traits.name} does not show its retries")
        return transport

    async def _fail(self, transport: Transport, *after: float) -> None:
        """Publish as many, and let each wait so many leases for its next attempt."""
        await self.publish(transport, *(f"o-{number}" for number in range(len(after))))
        for delivery, leases in zip(await self.claim(transport, limit=len(after)), after, strict=True):
            await self.settle(transport, Requeue(self.lease * leases, BOOM), delivery)

    async def test_retries_are_shown_the_soonest_first(self, transport: Transport) -> None:
        desk = self._desk(transport)
        await self.declare(transport)
        await self._fail(transport, 30, 10, 20, 10)
        await self.publish(transport, "delayed", delay=self.lease * 5)
        found = await desk.retrying("receipts")
        assert _keys(found) in (["o-1", "o-3", "o-2", "o-0"], ["o-3", "o-1", "o-2", "o-0"])
        assert {(one.subscription, one.attempt) for one in found} == {("receipts", 2)}
        assert [one.due_at for one in found] == sorted(one.due_at for one in found)
        pages: list[Retrying] = []
        while page := await desk.retrying("receipts", limit=1, after=pages[-1].place if pages else None):
            pages += page
        assert [one.place for one in pages] == [one.place for one in found]
        with pytest.raises(UnknownSubscription):
            await desk.retrying("nobody")

    async def test_a_hastened_retry_is_ready_with_its_attempts(self, transport: Transport) -> None:
        desk = self._desk(transport)
        await self.declare(transport)
        await self._fail(transport, 30, 30)
        first, second = await desk.retrying("receipts")
        assert await desk.hasten("receipts", [first.place, first.place]) == 1
        assert await desk.hasten("receipts", [first.place]) == 0
        claimed = await self.claim_one(transport)
        assert (claimed.envelope.id, claimed.attempt) == (first.envelope.id, 2)
        await self.settle(transport, Ack(), claimed)
        assert await desk.hasten("receipts", [first.place]) == 0
        assert [one.place for one in await desk.retrying("receipts")] == [second.place]
        assert (await self.stats(transport)).retrying == 1

    async def test_an_abandoned_retry_is_gone(self, transport: Transport) -> None:
        desk = self._desk(transport)
        await self.declare(transport)
        await self._fail(transport, 30, 30)
        first, second = await desk.retrying("receipts")
        assert await desk.abandon("receipts", [second.place, second.place]) == 1
        assert await desk.abandon("receipts", [second.place]) == 0
        assert [one.place for one in await desk.retrying("receipts")] == [first.place]
        assert await desk.hasten("receipts", [first.place]) == 1
        assert keys(await self.claim(transport)) == [first.envelope.key]
        stats = await self.stats(transport)
        assert (stats.backlog, stats.retrying, stats.dead, stats.in_flight) == (0, 0, 0, 1)

    async def test_an_abandoned_retry_lets_its_key_go_on(self, transport: Transport) -> None:
        desk = self._desk(transport)
        self.needs(transport, "ordered")
        await self.declare(transport, ordered=True)
        await self.publish(transport, "k", "k", "other")
        held = await self.claim(transport)
        assert keys(held) == ["k", "other"]
        await self.settle(transport, Requeue(self.lease * 30, BOOM), *held)
        assert await self.claim(transport) == []
        found = await desk.retrying("receipts")
        assert await desk.hasten("receipts", [one.place for one in found if one.envelope.key == "other"]) == 1
        assert keys(await self.claim(transport)) == ["other"]
        assert await desk.abandon("receipts", [one.place for one in found]) == 1
        (second,) = await self.claim(transport)
        assert (second.envelope.key, second.attempt) == ("k", 1)
        await self.settle(transport, Ack(), second)


def _keys(found: Sequence[Retrying]) -> list[str | None]:
    return [one.envelope.key for one in found]
