"""The memory transport passes the suite; and what is its own: the bound, threads, forks."""

from __future__ import annotations

from postbus.address import Address, Settings
from postbus.testing.suite import TransportSuite
from postbus.transport import Transport
from postbus.transports.memory import connect


class TestMemory(TransportSuite):
    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse("memory://"), settings)
