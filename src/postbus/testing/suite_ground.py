"""What the transport suite stands on: how a transport is opened, time passes, and events come and go."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: S101
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal
from uuid import uuid4

import pytest

from ..address import Settings
from ..clock import Clock
from ..delivery import Ack, Delivery, Failure, Outcome
from ..envelope import Envelope, new_id
from ..event import topic_of
from ..transport import (
    Append,
    Claimed,
    Inspectable,
    Outgoing,
    Settled,
    Stored,
    SubscriptionSpec,
    SubscriptionStats,
    Transport,
)
from .clock import ManualClock

__all__ = ["BOOM", "Ground", "ids", "inspectable", "keys"]

BOOM = Failure("ValueError", "boom", "Traceback (most recent call last):\nValueError: boom")

_Trait = Literal["shared", "fenced", "ordered", "delay", "exact_attempts", "pause", "rename", "history"]


def inspectable(transport: Transport) -> Inspectable:
    """The transport as one that can be inspected, or skip the test."""
    if not isinstance(transport, Inspectable):
        pytest.skip(f"{transport.traits.name} cannot be inspected")
    return transport


class Ground:
    """Opens transports onto one store for each test, and closes them.

    Attributes:
        lease: seconds; the suite's other spans are multiples of it.
        patience: the longest time that `elapse` is asked for; tests that need more are skipped.
        clock: what is handed to the transport.
        namespace: new for each test.
    """

    lease: float = 30.0
    patience: float = float("inf")
    clock: Clock
    namespace: str

    async def make(self, settings: Settings) -> Transport:
        """Return a transport, not yet open, onto this test's store, which is the same at every call.

        `settings` say the clock and a namespace of this test's own.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how its transport is made")

    async def elapse(self, seconds: float) -> None:
        """Let time pass, for the transport."""
        if not isinstance(self.clock, ManualClock):
            raise NotImplementedError(f"{type(self).__name__} has a clock of its own, and must say how time passes")
        self.clock.advance(seconds)

    @pytest.fixture(autouse=True)
    async def _ground(self) -> AsyncIterator[None]:
        if not hasattr(self, "clock"):
            self.clock = ManualClock()
        self.namespace = f"t{uuid4().hex[:12]}"
        self._opened: list[Transport] = []
        yield
        for transport in reversed(self._opened):
            await transport.close()

    @pytest.fixture
    async def transport(self, _ground: None) -> Transport:
        """An open transport onto an empty store."""
        return await self.open()

    async def open(self, **settings: Any) -> Transport:
        """One more open transport onto this test's store."""
        transport = await self.unopened(**settings)
        await transport.open()
        return transport

    async def unopened(self, **settings: Any) -> Transport:
        """One more transport; it will be closed after the test."""
        transport = await self.make(Settings(namespace=self.namespace, clock=self.clock, **settings))
        self._opened.append(transport)
        return transport

    async def second(self, transport: Transport) -> Transport:
        """Another transport onto the same store, or skip."""
        self.needs(transport, "shared")
        return await self.open()

    def needs(self, transport: Transport, *traits: _Trait) -> None:
        """Skip the test where the transport does not promise these."""
        for trait in traits:
            if not getattr(transport.traits, trait):
                pytest.skip(f"{transport.traits.name} is not {trait}")

    async def elapse_or_skip(self, seconds: float) -> None:
        """Let much time pass, where that costs nothing."""
        if seconds > self.patience:
            pytest.skip(f"would wait for {seconds:g} s")
        await self.elapse(seconds)

    async def end_leases(self) -> None:
        """Let every lease end that is not renewed meanwhile."""
        await self.elapse(self.lease * 1.5)

    # -- what is sent

    def sealed(self, name: str = "orders.order.placed", key: str | None = None, **fields: Any) -> Envelope:
        """An envelope that was published now."""
        values: dict[str, Any] = {
            "id_bytes": new_id(),
            "name": name,
            "topic": topic_of(name),
            "key": key,
            "micros": round(self.clock.time() * 1e6),
            "version": 1,
            "format": "application/json",
            "body": b"{}",
        }
        return Envelope(**values | fields)

    async def declare(
        self, transport: Transport, name: str = "receipts", wants: Sequence[str] = ("orders.>",), **spec: Any
    ) -> SubscriptionSpec:
        """Declare one subscription, and expect no conflict."""
        declared = SubscriptionSpec(name=name, wants=tuple(wants), **spec)
        assert list(await transport.declare([declared])) == []
        return declared

    async def append(
        self, transport: Transport, *envelopes: Envelope, delay: float = 0.0, require_subscription: bool = False
    ) -> list[Append]:
        """Append in one batch."""
        items = [Outgoing(e, delay=delay, require_subscription=require_subscription) for e in envelopes]
        return list(await transport.append(items))

    async def publish(
        self, transport: Transport, *what: str | Envelope, key: str | None = None, delay: float = 0.0
    ) -> list[Envelope]:
        """Append these one after the other, expecting each to be stored; a text is a key, where `key` is not given."""
        envelopes = [e if isinstance(e, Envelope) else self.sealed(key=key or e) for e in what]
        for envelope in envelopes:
            (result,) = await self.append(transport, envelope, delay=delay)
            assert isinstance(result, Stored), result
        return envelopes

    # -- what is received

    async def offered(
        self, transport: Transport, name: str = "receipts", *, owner: str = "a", limit: int = 100, alone: bool = False
    ) -> Claimed:
        """Claim, for the suite's lease."""
        claimed = await transport.claim(name, owner=owner, limit=limit, lease=self.lease, alone=alone)
        assert len(claimed.deliveries) <= limit
        for delivery in claimed.deliveries:
            assert (delivery.subscription, delivery.owner, delivery.suspect) == (name, owner, alone)
        return claimed

    async def claim(
        self, transport: Transport, name: str = "receipts", *, owner: str = "a", limit: int = 100, alone: bool = False
    ) -> list[Delivery]:
        """The deliveries of a claim."""
        return list((await self.offered(transport, name, owner=owner, limit=limit, alone=alone)).deliveries)

    async def claim_one(
        self, transport: Transport, name: str = "receipts", *, owner: str = "a", alone: bool = False
    ) -> Delivery:
        """The one delivery that there is."""
        found = await self.claim(transport, name, owner=owner, alone=alone)
        assert len(found) == 1, found
        return found[0]

    async def settle(self, transport: Transport, outcome: Outcome, *deliveries: Delivery) -> None:
        """Settle these alike, and expect each to be accepted."""
        results = await transport.settle([(delivery, outcome) for delivery in deliveries])
        assert [type(result) for result in results] == [Settled] * len(deliveries), results

    async def finish(self, transport: Transport, name: str = "receipts", *, owner: str = "a") -> list[Envelope]:
        """Claim and finish whatever is ready, batch by batch; return it in the order of claims."""
        done: list[Envelope] = []
        while found := await self.claim(transport, name, owner=owner):
            await self.settle(transport, Ack(), *found)
            done += [delivery.envelope for delivery in found]
        return done

    async def renew(self, transport: Transport, *deliveries: Delivery, lease: float | None = None) -> list[Delivery]:
        """Renew from a thread; return what is lost."""

        def in_thread() -> list[Delivery]:
            renewer = transport.renewer()
            try:
                return list(renewer.renew(deliveries, lease or self.lease))
            finally:
                renewer.close()

        return await asyncio.to_thread(in_thread)

    async def stats(self, transport: Transport, name: str = "receipts") -> SubscriptionStats:
        """How one subscription stands."""
        (found,) = await inspectable(transport).stats([name])
        return found


def ids(deliveries: Sequence[Delivery]) -> list[bytes]:
    """The events' ids."""
    return [delivery.envelope.id_bytes for delivery in deliveries]


def keys(what: Sequence[Delivery | Envelope]) -> list[str | None]:
    """The events' keys."""
    return [(one.envelope if isinstance(one, Delivery) else one).key for one in what]
