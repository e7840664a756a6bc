"""What every test may ask for.  Servers are in servers.py; fixtures here start them when first asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from server_kinds import NatsKind, PostgresKind, RedisKind
from servers import Server, own, shared

# Machines differ in speed, and no test depends on it; in CI the same examples are tried in each run.
settings.register_profile(
    "postbus",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
)
settings.load_profile("postbus")


# What loads the machine with processes of its own runs in two lanes, whatever `JOBS` says: more of it side by side, and
# leases of a second end because nobody came to renew them.
_FIRST_LANE = {"test_workers.py", "test_relay.py", "test_store.py", "test_demo.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test that loads the machine its lane."""
    for item in items:
        if item.path.parent.name == "faults" or item.path.name in _FIRST_LANE:
            lane = "first" if item.path.name in _FIRST_LANE else "second"
            item.add_marker(pytest.mark.xdist_group(f"load, {lane} lane"))


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis or Valkey that tests share: use a namespace of your own."""
    yield from shared(RedisKind())


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL that tests share: use a namespace or schema of your own."""
    yield from shared(PostgresKind())


@pytest.fixture(scope="session")
def nats_url() -> Iterator[str]:
    """A NATS with JetStream that tests share: use a namespace of your own."""
    yield from shared(NatsKind())


@pytest.fixture
def redis_server() -> Iterator[Server]:
    """A Redis or Valkey for this test alone, which writes each command to disk: it may be killed and frozen."""
    yield from own(RedisKind(durable=True))


@pytest.fixture
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL for this test alone: it may be killed and frozen."""
    yield from own(PostgresKind())


@pytest.fixture
def nats_server() -> Iterator[Server]:
    """A NATS with JetStream for this test alone: it may be killed and frozen."""
    yield from own(NatsKind())
