"""Redis Streams pass the suite, on Valkey and on Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest

from postbus.address import Address, Settings
from postbus.clock import SystemClock
from postbus.testing.suite import TransportSuite
from postbus.transport import Transport
from postbus.transports.redis import connect
from server_kinds import RedisKind
from servers import own, shared

__all__ = ["TestRedis"]


class _OnPath(RedisKind):
    """The `redis-server` of the machine, whatever a wheel brings."""

    def binary(self) -> Path | None:
        found = which("redis-server")
        return None if found is None else Path(found)


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "valkey":
        yield from shared(RedisKind())
    else:
        for running in own(_OnPath()):
            yield running.url


class TestRedis(TransportSuite):
    lease = 0.8
    patience = 10.0

    @pytest.fixture(autouse=True)
    def _place(self, server: str) -> None:
        self.url = server
        self.clock = SystemClock()

    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse(self.url), replace(settings))

    async def elapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
