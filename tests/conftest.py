"""What every test may ask for.  Servers are in servers.py; fixtures here start them when first asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

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


# Each file is run by one worker, which starts the servers of that file once, and these are run one after the other by
# one worker: what loads the machine with processes of its own is not done more than twice at a time, or leases of a
# second end because nobody came to renew them; and one browser is enough.
_LANES = (
    ("faults/test_workers.py", "faults/test_relay.py", "faults/test_store.py"),
    ("faults/",),
    ("dashboard/test_browser.py", "dashboard/test_pages.py", "dashboard/test_attacks.py", "tests/test_demo.py"),
)
# Each test by itself: they take long, and share nothing.
_APART = "cli/test_worker_command.py"
# What takes long begins early, so that all workers end together.
_EARLY = (_APART, "integrations/test_shops.py", "transports/test_postgres.py")


class _Lanes(LoadScopeScheduling):
    """Hands out files and lanes, in the order in which they were collected.

    Marks as `xdist_group` would do for lanes, but xdist 3.8 loses them with pytest 9.2, and says nothing.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.endswith(_APART):
            return nodeid
        lane = _lane_of(file)
        return file if lane is None else f"lane {lane}"


def _lane_of(file: str) -> int | None:
    return next((lane for lane, places in enumerate(_LANES) if any(place in file for place in places)), None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Use our own."""
    config.option.loadscopereorder = False
    return _Lanes(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lanes first, then what takes long, then the rest."""

    def rank(item: pytest.Item) -> int:
        lane = _lane_of(item.nodeid)
        if lane is not None:
            return lane
        return len(_LANES) + (not any(place in item.nodeid for place in _EARLY))

    items.sort(key=rank)


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
