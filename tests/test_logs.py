"""What a worker's log says of each failed attempt: one line, by which the event is found, and no secret."""

from __future__ import annotations

import json
import logging

import pytest

from postbus import Bus, RawEvent, Reject, Retry
from postbus.failure import redacted
from postbus.logs import Logs

SECRET = "postgresql://me:canary@db and password=canary"


@pytest.fixture
def bus() -> Bus:
    bus = Bus("memory://")

    @bus.subscriber("orders.>", name="receipts", retry=Retry(attempts=2, delay=0.01, jitter=0))
    async def receipts(event: RawEvent) -> None:
        if event.payload == "bad":
            raise Reject(f"never \x1b[31m {SECRET}\nand more")
        if event.payload == "fails":
            raise OSError(f"away \x1b[31m {SECRET}\nand more")

    return bus


async def run(bus: Bus, *payloads: str) -> list[str]:
    """Publish and run these; return their ids."""
    async with bus:
        sent = [await bus.publish(RawEvent("orders.order.placed", payload)) for payload in payloads]
        await bus.drain()
    return [str(envelope.id) for envelope in sent]


def formatted(caplog: pytest.LogCaptureFixture, form: str) -> list[str]:
    """The records as `--log-format` shows them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        Logs(form=form).configure(redacted)
        formatter = root.handlers[0].formatter
        assert formatter is not None
        return [formatter.format(record) for record in caplog.records if record.name == "postbus"]
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


async def test_each_failed_attempt_is_one_line_and_a_success_none(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, failing, bad = await run(bus, "ok", "fails", "bad")
    lines = [json.loads(line) for line in formatted(caplog, "json")]
    told = sorted((line["event_id"], line["attempt"], line["level"]) for line in lines)
    assert told == sorted([(failing, 1, "warning"), (failing, 2, "error"), (bad, 1, "error")])
    for line in lines:
        assert (line["event_name"], line["subscription"]) == ("orders.order.placed", "receipts")


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_log_holds_no_secret_and_steers_no_terminal(
    bus: Bus, caplog: pytest.LogCaptureFixture, form: str
) -> None:
    await run(bus, "fails", "bad")
    text = "\n".join(formatted(caplog, form))
    assert "receipts" in text
    assert "canary" not in text
    assert "\x1b" not in text
    assert "***@db" in text


async def test_a_text_line_names_event_and_attempt(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    (failing,) = await run(bus, "fails")
    first, second = formatted(caplog, "text")
    assert "\n" not in first + second
    assert f"receipts: attempt 1 of orders.order.placed {failing} failed (OSError: away" in first
