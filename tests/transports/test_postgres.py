"""PostgreSQL passes the suite: every version that there is, and through a pgbouncer in transaction mode."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pgbouncer import PgbouncerKind
from postbus.address import Address, Settings
from postbus.clock import SystemClock
from postbus.testing.suite import TransportSuite
from postbus.transport import Transport
from postbus.transports.postgres import connect
from server_kinds import PostgresKind
from servers import own

__all__ = ["TestPostgres"]


OLDER = (17, 16, 15, 14, 13)


@pytest.fixture(
    scope="module",
    params=["newest", *(pytest.param(other, marks=pytest.mark.once) for other in ("pgbouncer", *OLDER))],
)
def server(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[str]:
    if request.param == "newest":
        yield postgres_url
        return
    behind = request.param == "pgbouncer"
    kind = PgbouncerKind(behind=postgres_url) if behind else PostgresKind(major=request.param)
    if kind.binary() is None:
        pytest.skip(f"no {request.param} on this machine: apt-get install postgresql pgbouncer, or make servers")
    for running in own(kind):
        yield running.url


class TestPostgres(TransportSuite):
    lease = 1.0
    patience = 8.0

    @pytest.fixture(autouse=True)
    def _place(self, server: str) -> None:
        self.url = server
        self.clock = SystemClock()

    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse(self.url), settings)

    async def elapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
