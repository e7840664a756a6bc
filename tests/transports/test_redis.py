"""Redis Streams pass the suite, on Valkey, on Redis, and on the oldest Redis that is promised."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from postbus.address import Address, Settings
from postbus.clock import SystemClock
from postbus.testing.suite import TransportSuite
from postbus.testing.suite_leases import LeaseSuite
from postbus.transport import Transport
from postbus.transports.redis import connect
from redis_servers import OnPath, oldest
from server_kinds import RedisKind
from servers import own, shared

__all__ = ["TestByItsOwnClock", "TestRedis"]


@pytest.fixture(
    scope="module",
    params=["valkey", *(pytest.param(other, marks=pytest.mark.once) for other in ("redis", "redis 6.2"))],
)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "valkey":
        yield from shared(RedisKind())
    else:
        for running in own(OnPath() if request.param == "redis" else oldest()):
            yield running.url


class TestRedis(TransportSuite):
    """By a clock that the tests move: no lease ends because a machine was busy."""

    @pytest.fixture(autouse=True)
    def _place(self, server: str) -> None:
        self.url = server

    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse(self.url), settings)


class TestByItsOwnClock(LeaseSuite):
    """As it is in production, where time is the server's."""

    lease = 2.0
    patience = 6.0

    @pytest.fixture(autouse=True)
    def _place(self, redis_url: str) -> None:
        self.url = redis_url
        self.clock = SystemClock()

    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse(self.url), settings)

    async def elapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
