"""SQLite passes the suite, at both durabilities."""

from __future__ import annotations

from pathlib import Path

import pytest

from postbus.address import Address, Settings
from postbus.testing.suite import TransportSuite
from postbus.transport import Transport
from postbus.transports.sqlite import connect


@pytest.mark.parametrize("durability", ["disk", "os"], scope="class")
class TestSqlite(TransportSuite):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path, durability: str) -> None:
        self.url = f"sqlite:///{tmp_path}/shop.db?durability={durability}"

    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse(self.url), settings)
