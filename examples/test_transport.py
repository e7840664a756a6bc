from pathlib import Path

import pytest

from postbus.address import Settings
from postbus.connect import connect
from postbus.testing import TransportSuite
from postbus.transport import Transport


class TestShelf(TransportSuite):
    """A transport is made for each test, onto a store of that test's own."""

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> None:
        self.url = f"sqlite:///{tmp_path}/shelf.db"  # here stands the URL of the transport that is tested

    async def make(self, settings: Settings) -> Transport:
        return connect(self.url, settings)
