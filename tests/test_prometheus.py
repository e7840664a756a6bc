"""Prometheus reads what the bus did: names, labels and sums, by its own parser."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from postbus import Bus, RawEvent, Reject, Retry, Snooze
from postbus.cli.metrics import MetricsBoard
from postbus.figures import FAMILIES, merged, packed, sums_of, unpacked
from postbus.integrations.prometheus import BusCollector, asgi_app, shown, wsgi_app

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: bytes) -> Samples:
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def shop(url: str = "memory://") -> Bus:
    bus = Bus(url)

    @bus.subscriber("orders.>", name="receipts", retry=Retry(attempts=2, delay=60))
    async def receipts(event: RawEvent) -> None:
        match event.payload:
            case "fails":
                raise OSError("away")
            case "bad":
                raise Reject("never")
            case "later":
                raise Snooze(60)
            case "slow":
                await asyncio.sleep(0.03)

    return bus


async def get(app: Any, method: str = "GET") -> tuple[int, bytes]:
    """One request to an ASGI application."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await app({"type": "http", "method": method, "path": "/"}, None, send)
    return sent[0]["status"], sent[1]["body"]


async def run(bus: Bus, *payloads: str) -> None:
    """Publish these, and wait until each was settled."""
    counters = bus.counters
    for payload in payloads:
        await bus.publish(RawEvent("orders.order.placed", payload))
    async with asyncio.timeout(10):
        while counters.acked + counters.requeued + counters.buried + counters.snoozed < len(payloads):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_what_happened_is_counted_by_topic_subscription_and_outcome() -> None:
    bus = shop()
    async with bus, bus.worker():
        await run(bus, "ok", "ok", "slow", "fails", "bad", "later")
        status, body = await get(asgi_app(bus))
    found = parsed(body)
    assert status == 200
    each = {"topic": "orders.order", "subscription": "receipts"}
    outcomes = {
        outcome: value(found, "postbus_deliveries_total", outcome=outcome, **each)
        for outcome in ("ok", "retry", "dead", "snoozed", "released", "lost")
    }
    assert outcomes == {"ok": 3, "retry": 1, "dead": 1, "snoozed": 1, "released": 0, "lost": 0}
    assert value(found, "postbus_published_total", topic="orders.order", outcome="stored") == 6
    assert value(found, "postbus_handler_seconds_count", **each) == 6
    assert value(found, "postbus_delivery_delay_seconds_count", **each) == 6
    assert value(found, "postbus_handler_seconds_bucket", le="0.01", **each) == 5
    assert value(found, "postbus_handler_seconds_bucket", le="+Inf", **each) == 6
    assert value(found, "postbus_handler_seconds_sum", **each) >= 0.03
    assert value(found, "postbus_dead_letters", subscription="receipts") == 1
    assert value(found, "postbus_retry_scheduled", subscription="receipts") == 2
    assert value(found, "postbus_workers", subscription="receipts") == 1
    assert value(found, "postbus_worker_heartbeat_timestamp_seconds", subscription="receipts") > 1e9
    assert value(found, "postbus_up") == 1


async def test_every_family_is_shown_by_its_name_and_labels(tmp_path: Path) -> None:
    bus = shop(f"sqlite:///{tmp_path}/bus.db")
    async with bus, bus.worker():
        await run(bus, "ok")
        _, body = await get(asgi_app(bus))
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    for name, about in FAMILIES.items():
        if name.startswith("postbus_outbox_") and about.kind == "gauge":
            continue  # this bus has none
        family = families[name.removesuffix("_total")]
        assert family.type == about.kind
        assert family.documentation == about.meaning
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(about.labels), sample
    assert value(parsed(body), "postbus_publish_seconds_count", topic="orders.order") == 1


async def test_no_label_holds_an_id_or_a_key() -> None:
    bus = shop()
    async with bus, bus.worker():
        sent = [await bus.publish(RawEvent("orders.order.placed", n), key=f"key-{n}") for n in range(3)]
        await bus.drain()
        owners = [worker.owner for worker in await bus.workers()]
        _, body = await get(asgi_app(bus))
    for secret in [*(str(envelope.id) for envelope in sent), "key-", *owners]:
        assert secret not in body.decode()


async def test_a_transport_that_is_closed_is_down_and_what_was_counted_stays() -> None:
    bus = shop()
    async with bus, bus.worker():
        await run(bus, "ok")
    status, body = await get(asgi_app(bus))
    found = parsed(body)
    assert status == 200
    assert value(found, "postbus_up") == 0
    assert value(found, "postbus_published_total", topic="orders.order", outcome="stored") == 1


async def test_only_reading_is_answered() -> None:
    async with shop() as bus:
        assert (await get(asgi_app(bus), "POST"))[0] == 405
        assert await get(asgi_app(bus), "HEAD") == (200, b"")


async def test_a_registry_shows_the_bus_of_a_running_loop_from_another_thread() -> None:
    bus, registry = shop(), CollectorRegistry()
    registry.register(BusCollector(bus))
    async with bus, bus.worker():
        await run(bus, "ok")
        found = parsed(await asyncio.to_thread(generate_latest, registry))
        here = parsed(generate_latest(registry))
    assert value(found, "postbus_workers", subscription="receipts") == 1
    assert ("postbus_up", frozenset[Any]()) not in here
    assert value(here, "postbus_published_total", topic="orders.order", outcome="stored") == 1


def test_wsgi_shows_the_bus_of_sync_callers(tmp_path: Path) -> None:
    bus = shop(f"sqlite:///{tmp_path}/bus.db")
    answers: list[Any] = []
    with bus:
        bus.publish_sync(RawEvent("orders.order.placed"))
        app = wsgi_app(bus)
        (body,) = app({"REQUEST_METHOD": "GET"}, lambda *answer: answers.append(answer))
        app({"REQUEST_METHOD": "POST"}, lambda *answer: answers.append(answer))
    found = parsed(body)
    assert [status for status, _ in answers] == ["200 OK", "405 Method Not Allowed"]
    assert value(found, "postbus_lag_messages", subscription="receipts") == 1
    assert value(found, "postbus_published_total", topic="orders.order", outcome="stored") == 1


async def test_processes_add_up_and_one_that_ended_is_not_forgotten() -> None:
    bus = shop()
    async with bus, bus.worker():
        await run(bus, "ok", "fails")
    said = packed(sums_of(bus))
    assert unpacked(said) == sums_of(bus)
    board = MetricsBoard()
    board.show([{"pid": 1, "figures": said}, {"pid": 2, "figures": said}, {"pid": None}])
    together = parsed(shown(board.figures()))
    board.show([{"pid": 2, "figures": said}, {"pid": 3, "figures": said}])
    later = parsed(shown(board.figures()))
    each = {"topic": "orders.order", "subscription": "receipts"}
    assert value(together, "postbus_deliveries_total", outcome="ok", **each) == 2
    assert value(later, "postbus_deliveries_total", outcome="ok", **each) == 3
    assert value(later, "postbus_handler_seconds_count", **each) == 6


def test_gauges_are_not_added_up() -> None:
    whole = merged([{"postbus_dead_letters": {("a",): 3, ("b",): 1}}, {"postbus_dead_letters": {("a",): 2}}])
    assert whole == {"postbus_dead_letters": {("a",): 2}}


def test_reading_from_many_threads_at_once_is_safe(tmp_path: Path) -> None:
    bus = shop(f"sqlite:///{tmp_path}/bus.db")

    def read() -> None:
        for _ in range(50):
            shown(sums_of(bus))

    with bus, ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(read) for _ in range(4)]
        for n in range(50):
            bus.publish_sync(RawEvent(f"orders.order{n}.placed"))
        for reader in readers:
            reader.result()


def test_figures_of_different_kinds_do_not_add_up() -> None:
    with pytest.raises(TypeError, match="do not add up"):
        merged([{"postbus_unrouted_total": {("a",): 1}}, {"postbus_unrouted_total": {("a",): ([1], 0.5)}}])
