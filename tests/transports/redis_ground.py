"""What the tests of the Redis transport stand on: a server of their own, a transport, and short words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from postbus.address import Address, Settings
from postbus.delivery import Delivery, Failure
from postbus.envelope import Envelope, new_id
from postbus.event import topic_of
from postbus.transport import Append, Outgoing, SubscriptionSpec
from postbus.transports.redis import RedisTransport, connect
from redis_servers import oldest
from server_kinds import RedisKind

__all__ = ["BOOM", "STREAM", "claim", "declare", "keys", "on_the_oldest_too", "opened", "publish", "sealed"]

BOOM = Failure("ValueError", "boom")
STREAM = "{postbus/orders.order}:s"
on_the_oldest_too = pytest.mark.parametrize("server", [RedisKind, oldest], indirect=True, ids=["", "redis 6.2"])


@asynccontextmanager
async def opened(url: str, timeout: str = "2", **settings: object) -> AsyncIterator[RedisTransport]:
    whole = f"{url}{'&' if '?' in url else '?'}timeout={timeout}"
    transport = connect(Address.parse(whole), Settings(**settings))  # type: ignore[arg-type]
    await transport.open()
    try:
        yield transport
    finally:
        await transport.close()


def sealed(key: str | None = None, name: str = "orders.order.placed", body: bytes = b"{}") -> Envelope:
    return Envelope(new_id(), name, topic_of(name), key, 1_800_000_000_000_000, 1, "application/json", body)


async def declare(transport: RedisTransport, name: str = "receipts", **spec: object) -> SubscriptionSpec:
    declared = SubscriptionSpec(name=name, wants=("orders.>",), **spec)  # type: ignore[arg-type]
    assert list(await transport.declare([declared])) == []
    return declared


async def publish(transport: RedisTransport, *keys: str | None) -> list[Append]:
    return list(await transport.append([Outgoing(sealed(key)) for key in keys]))


async def claim(
    transport: RedisTransport, name: str = "receipts", *, owner: str = "a", lease: float = 30, alone: bool = False
) -> list[Delivery]:
    return list((await transport.claim(name, owner=owner, limit=1000, lease=lease, alone=alone)).deliveries)


def keys(deliveries: list[Delivery]) -> list[str | None]:
    return [delivery.envelope.key for delivery in deliveries]
