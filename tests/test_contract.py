"""The promises of the contract that no other file holds the product to, end to end, on each embedded transport."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from postbus import Bus, ConfigError, Context, RawEvent

Make = Callable[..., Bus]


@pytest.fixture(params=["memory://", "memory://?codec=msgpack", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    url = f"sqlite:///{tmp_path}/bus.db" if request.param == "sqlite" else request.param

    def bus(**options: Any) -> Bus:
        return Bus(url, **options)

    return bus


@pytest.mark.parametrize("codec", ["pickle", 5, None])
def test_a_codec_that_is_none_is_refused_with_what_was_expected(codec: Any) -> None:
    with pytest.raises(ConfigError, match=r"codec=.*expected .*'msgpack'"):
        Bus("memory://", codec=codec)


async def test_a_raw_event_has_the_key_it_was_published_under(make: Make) -> None:
    bus = make()
    seen: list[tuple[object, str | None, str | None]] = []

    @bus.subscriber("users.user.created")
    async def created(event: RawEvent, context: Context) -> None:
        seen.append((event.payload, event.key, context.envelope.key))

    async with bus:
        await bus.publish(RawEvent("users.user.created", {"n": 1}), key="given")
        await bus.publish(RawEvent("users.user.created", {"n": 2}, key="own"), key="given")
        await bus.publish(RawEvent("users.user.created", {"n": 3}, key="own"))
        await bus.drain()
    assert seen == [({"n": 1}, "given", "given"), ({"n": 2}, "given", "given"), ({"n": 3}, "own", "own")]


@pytest.mark.parametrize("setting", [{"concurrency": 0}, {"concurrency": "5"}, {"lease": 0}, {"grace": -1}])
async def test_a_worker_refuses_the_settings_that_its_bus_refuses(make: Make, setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ConfigError, match=name):
        make(**setting)
    with pytest.raises(ConfigError, match=name):
        await make().run_worker(**setting)
