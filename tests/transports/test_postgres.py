"""PostgreSQL passes the suite: every version that there is, and through a pgbouncer in transaction mode."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from postgres_hand import Hand, on_database, with_hand

from pgbouncer import PgbouncerKind
from postbus.address import Address, Settings
from postbus.clock import SystemClock
from postbus.testing.clock import ManualClock
from postbus.testing.suite import TransportSuite
from postbus.testing.suite_leases import LeaseSuite
from postbus.transport import Transport
from postbus.transports.postgres import connect
from server_kinds import PostgresKind
from servers import own

__all__ = ["TestByItsOwnClock", "TestPostgres"]


OLDER = (17, 16, 15, 14, 13)


FOUND = [major for major in OLDER if PostgresKind(major=major).binary() is not None]


@pytest.mark.once
@pytest.mark.parametrize("major", sorted({*OLDER} - {*FOUND}))
def test_a_version_that_is_not_here_is_not_forgotten(major: int) -> None:
    pytest.skip(f"no PostgreSQL {major} on this machine, so no suite on it: make servers")


@pytest.fixture(
    scope="module",
    params=["newest", *(pytest.param(other, marks=pytest.mark.once) for other in ("pgbouncer", *FOUND))],
)
def server(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[tuple[str, Hand]]:
    """The way to a database, and the hand that moves its time, which goes past the pooler."""
    if request.param == "newest":
        with with_hand(postgres_url) as hand:
            yield on_database(postgres_url, hand.database), hand
        return
    behind = request.param == "pgbouncer"
    kind = PgbouncerKind(behind=postgres_url) if behind else PostgresKind(major=request.param)
    if kind.binary() is None:
        pytest.skip(f"no {request.param} on this machine: apt-get install pgbouncer")
    for running in own(kind):
        with with_hand(postgres_url if behind else running.url) as hand:
            yield on_database(running.url, hand.database), hand


class TestPostgres(TransportSuite):
    @pytest.fixture(autouse=True)
    def _place(self, server: tuple[str, Hand]) -> None:
        self.url, hand = server
        self.clock = ManualClock()
        hand.follow(self.clock)

    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse(self.url), settings)


class TestByItsOwnClock(LeaseSuite):
    """As it is in production, where time is the server's."""

    lease = 1.5
    patience = 6.0

    @pytest.fixture(autouse=True)
    def _place(self, postgres_url: str) -> None:
        self.url = postgres_url
        self.clock = SystemClock()

    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse(self.url), settings)

    async def elapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
