"""Redis Streams pass the suite, on Valkey, on Redis, and on the oldest Redis that is promised."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis_halves import ByHand, ByItsOwnClock

from redis_servers import OnPath, oldest
from server_kinds import RedisKind
from servers import own, shared

__all__ = ["TestRedis", "TestRedisByItsOwnClock"]


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


class TestRedis(ByHand):
    @pytest.fixture(autouse=True)
    def _place(self, server: str) -> None:
        self.url = server


class TestRedisByItsOwnClock(ByItsOwnClock):
    @pytest.fixture(autouse=True)
    def _place(self, server: str) -> None:
        self.url = server
