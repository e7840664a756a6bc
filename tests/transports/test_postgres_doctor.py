"""What `doctor` hears about a PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest

from pgbouncer import PgbouncerKind
from postbus.address import Address, Settings
from postbus.errors import ConfigError
from postbus.finding import Examinable, Finding
from postbus.transports.postgres import PostgresTransport, connect
from servers import own


async def found(url: str, *, retain: float | None = None) -> dict[str, list[Finding]]:
    transport = connect(Address.parse(url), Settings(namespace=f"t{uuid4().hex[:12]}", retain=retain))
    assert isinstance(transport, Examinable)
    await transport.open()
    try:
        by_what: dict[str, list[Finding]] = {}
        for one in await transport.examine():
            by_what.setdefault(one.what, []).append(one)
        return by_what
    finally:
        await transport.close()


@pytest.fixture
def bouncer(postgres_url: str) -> Iterator[str]:
    kind = PgbouncerKind(behind=postgres_url)
    if kind.binary() is None:
        pytest.skip("no pgbouncer on this machine: apt-get install pgbouncer")
    for running in own(kind):
        yield running.url


async def test_settings_that_lose_events_are_named(postgres_url: str) -> None:
    """The tests' server does without fsync."""
    seen = await found(postgres_url)
    assert [one.level for one in seen["durability"]] == ["error"]
    assert "fsync is off" in seen["durability"][0].text
    assert seen["server"][0].level == seen["clock"][0].level == seen["connections"][0].level == "ok"
    assert (seen["pooler"][0].level, seen["pooler"][0].text) == ("ok", "none")


async def test_a_commit_that_does_not_wait_is_named(postgres_url: str) -> None:
    role = f"hasty_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} SUPERUSER LOGIN".encode())
        admin.execute(f"ALTER ROLE {role} SET synchronous_commit = off".encode())
    seen = await found(postgres_url.replace("postgres@", f"{role}@"))
    assert "synchronous_commit is off" in " ".join(one.text for one in seen["durability"])


async def test_an_old_transaction_is_named(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postbus.transports.postgres.examining._OLD", 0.0)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT 1")
        seen = await found(postgres_url)
    assert seen["transactions"][0].level == "warning"
    assert "cannot be cleared away" in seen["transactions"][0].text


async def test_a_pooler_is_noticed(bouncer: str) -> None:
    assert (await found(bouncer))["pooler"][0].level == "ok"
    careless = bouncer.partition("?")[0] + "?prepare=off"
    assert "prepare=off&listen=off" in (await found(careless))["pooler"][0].advice


async def test_a_role_with_few_rights_works_and_is_told(postgres_url: str) -> None:
    """The tables are made by one role, and used by another that may make none."""
    role, namespace = f"plain_{uuid4().hex[:12]}", f"t{uuid4().hex[:12]}"
    owner = connect(Address.parse(postgres_url), Settings(namespace=namespace))
    await owner.open()
    await owner.close()
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN".encode())
        admin.execute(f"GRANT USAGE ON SCHEMA {namespace} TO {role}".encode())
        admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {namespace} TO {role}".encode())
        admin.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {namespace} TO {role}".encode())
    async for transport in plain(postgres_url.replace("postgres@", f"{role}@"), namespace):
        seen = {one.what: one for one in await transport.examine()}
        assert seen["rights"].level == "note"
        assert "row by row" in seen["rights"].text


async def plain(url: str, namespace: str) -> AsyncIterator[PostgresTransport]:
    transport = connect(Address.parse(url), Settings(namespace=namespace, retain=3600.0))
    await transport.open()
    yield transport
    await transport.close()


async def test_a_role_that_sees_otherwise_is_refused_behind_a_pooler(postgres_url: str) -> None:
    role = f"strict_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} SUPERUSER LOGIN".encode())
        admin.execute(f"ALTER ROLE {role} SET default_transaction_isolation = 'serializable'".encode())
    url = postgres_url.replace("postgres@", f"{role}@")
    assert (await found(url))["server"][0].level == "ok"  # our own connections say what they need
    with pytest.raises(ConfigError, match="default_transaction_isolation"):
        await found(url + "?prepare=off")
