"""PostgreSQL passes the suite."""

from __future__ import annotations

import asyncio

import pytest

from postbus.address import Address, Settings
from postbus.clock import SystemClock
from postbus.testing.suite import TransportSuite
from postbus.transport import Transport
from postbus.transports.postgres import connect


class TestPostgres(TransportSuite):
    lease = 1.0
    patience = 8.0

    @pytest.fixture(autouse=True)
    def _place(self, postgres_url: str) -> None:
        self.url = postgres_url
        self.clock = SystemClock()

    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse(self.url), settings)

    async def elapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
