"""What the tests of one transport may ask for.  Redis: a server for the test alone, without persistence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from redis_ground import opened

from postbus.transports.redis import RedisTransport
from server_kinds import RedisKind
from servers import Server, own


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A Redis or Valkey; see `on_the_oldest_too`."""
    yield from own(getattr(request, "param", RedisKind)())


@pytest.fixture
def admin(server: Server) -> Iterator[redis.Redis]:
    """Somebody else's client of it."""
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
async def transport(server: Server) -> AsyncIterator[RedisTransport]:
    """An open transport on it."""
    async with opened(server.url) as transport:
        yield transport
