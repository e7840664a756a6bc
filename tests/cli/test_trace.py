"""`postbus trace`: what it says of an event, to people and to programs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from commands import APP, postbus

from deeds import Deed, make
from running import Shop


@pytest.fixture(autouse=True)
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path)
    for name, value in shop.env.items():
        monkeypatch.setenv(name, value)
    return shop


def published(do: str, *, drain: bool = True) -> UUID:
    async def run() -> UUID:
        async with make() as bus:
            envelope = await bus.publish(Deed(1, do))
            if drain:
                await bus.drain()
            return envelope.id

    return asyncio.run(run())


def test_a_dead_letter_is_explained_with_its_attempts_and_its_remedy() -> None:
    event = published("fail")
    told = postbus("trace", *APP, "--", str(event))
    assert told.code == 0, told.err
    assert "work buried it at" in told.out
    assert "postbus dead replay" in told.out
    assert told.out.count("retried") == 2
    assert "buried   " in told.out
    assert "canary" not in told.out
    assert "\x1b" not in told.out


def test_programs_get_the_same_with_stable_keys() -> None:
    found = postbus("trace", *APP, "--json", str(published("nothing", drain=False))).json
    assert set(found) == {"id", "event", "summary", "subscriptions", "attempts", "lineage"}
    assert [one["state"] for one in found["subscriptions"]] == ["ready"]
    assert found["subscriptions"][0]["remedy"] == "postbus worker -s work"
    assert [one["depth"] for one in found["lineage"]] == [0]


def test_an_unknown_event_is_no_error() -> None:
    told = postbus("trace", *APP, str(uuid4()))
    assert told.code == 0
    assert "It is not stored, and no attempt is remembered" in told.out


def test_what_is_no_id_is_refused() -> None:
    told = postbus("trace", *APP, "nonsense")
    assert told.code == 2
    assert "'nonsense' is no id" in told.err
