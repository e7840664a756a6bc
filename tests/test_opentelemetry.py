"""Traces, as the real SDK exports them: one trace from the publish to every attempt, by the messaging conventions."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from postbus import Bus, Context, RawEvent, Retry, Snooze
from postbus.integrations.opentelemetry import CONVENTIONS, tracing
from postbus.middleware import AroundPublish, Middleware, Publishing


class Traced:
    """A provider, and what it exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def around(self, url: str, **options: Any) -> tuple[Middleware, ...]:
        return tracing(url, tracer_provider=self.provider, **options)

    def named(self, name: str) -> list[ReadableSpan]:
        """The finished spans of this name, in the order they began."""
        spans = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return sorted(spans, key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture
def traced() -> Traced:
    return Traced()


def made(traced: Traced, url: str = "memory://", **options: Any) -> Bus:
    return Bus(url, middleware=traced.around(url, **options))


def of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


async def test_every_attempt_belongs_to_the_trace_of_its_publish(traced: Traced) -> None:
    bus = made(traced)

    @bus.subscriber("orders.>", retry=Retry(attempts=3, delay=0.01, jitter=0))
    async def receipts(_: RawEvent) -> None:
        raise OSError("postgresql://me:secret@db refused")

    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"))
        await bus.drain()
    publish, attempts = traced.one("publish orders.order"), traced.named("process orders.order")
    assert publish.context is not None
    assert [of(span)["postbus.delivery.attempt"] for span in attempts] == [1, 2, 3]
    for span in attempts:
        assert trace_of(span) == trace_of(publish)
        assert span.parent is not None
        assert span.parent.span_id == publish.context.span_id
        assert [link.context.span_id for link in span.links] == [publish.context.span_id]
        assert (span.kind, span.status.status_code) == (SpanKind.CONSUMER, StatusCode.ERROR)
        assert of(span)["error.type"] == "OSError"
        assert [event.name for event in span.events] == ["exception"]
        assert "secret" not in span.to_json()
    assert envelope.headers["traceparent"].split("-")[1] == f"{trace_of(publish):032x}"


async def test_spans_say_what_the_conventions_ask_for(traced: Traced) -> None:
    bus = made(traced)

    @bus.subscriber("orders.>", name="receipts")
    async def receipts(_: RawEvent) -> None: ...

    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"), headers={"correlationid": "c-1"})
        await bus.drain()
    publish, process = traced.one("publish orders.order"), traced.one("process orders.order")
    assert (publish.kind, publish.instrumentation_scope and publish.instrumentation_scope.schema_url) == (
        SpanKind.PRODUCER,
        CONVENTIONS,
    )
    assert of(publish) == {
        "messaging.system": "memory",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders.order",
        "messaging.message.id": str(envelope.id),
        "messaging.message.conversation_id": "c-1",
    }
    assert of(process) == {
        "messaging.system": "memory",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders.order",
        "messaging.message.id": str(envelope.id),
        "messaging.message.conversation_id": "c-1",
        "messaging.consumer.group.name": "receipts",
        "messaging.destination.subscription.name": "receipts",
        "postbus.event.name": "orders.order.placed",
        "postbus.delivery.attempt": 1,
    }
    assert process.status.status_code is StatusCode.UNSET


async def test_a_batch_has_a_span_for_each_event_and_one_that_links_to_them(traced: Traced) -> None:
    bus = made(traced)

    @bus.subscriber("orders.>")
    async def receipts(_: RawEvent) -> None: ...

    async with bus:
        sent = await bus.publish_many([RawEvent("orders.order.placed", n) for n in range(3)], headers={"x": "y"})
        await bus.drain()
    creates, publish = traced.named("create orders.order"), traced.one("publish orders.order")
    ids = [span.context.span_id for span in creates if span.context is not None]
    assert [span.kind for span in creates] == [SpanKind.PRODUCER] * 3
    assert publish.kind is SpanKind.CLIENT
    assert [link.context.span_id for link in publish.links] == ids
    assert of(publish)["messaging.batch.message_count"] == 3
    assert [int(envelope.headers["traceparent"].split("-")[2], 16) for envelope in sent] == ids
    assert {envelope.headers["x"] for envelope in sent} == {"y"}
    parents = [span.parent.span_id for span in traced.named("process orders.order") if span.parent is not None]
    assert sorted(parents) == sorted(ids)


async def test_a_batch_for_several_topics_names_none(traced: Traced) -> None:
    bus = made(traced)
    async with bus:
        await bus.publish_many([RawEvent("a.b.c"), RawEvent("d.e.f")])
    assert "messaging.destination.name" not in of(traced.one("publish"))
    assert {span.name for span in traced.exporter.get_finished_spans()} == {"create a.b", "create d.e", "publish"}


async def test_what_a_subscriber_publishes_follows_in_the_same_trace(traced: Traced) -> None:
    bus = made(traced)

    @bus.subscriber("a.a.began")
    async def first(_: RawEvent, context: Context) -> None:
        await context.publish(RawEvent("b.b.followed"))

    @bus.subscriber("b.b.followed")
    def second(_: RawEvent) -> None: ...

    async with bus:
        with traced.provider.get_tracer("test").start_as_current_span("request"):
            await bus.publish(RawEvent("a.a.began"))
        await bus.drain()
    names = ["request", "publish a.a", "process a.a", "publish b.b", "process b.b"]
    spans = [traced.one(name) for name in names]
    assert {trace_of(span) for span in spans} == {trace_of(spans[0])}
    for before, span in pairwise(spans):
        assert span.parent is not None
        assert before.context is not None
        assert span.parent.span_id == before.context.span_id


async def test_attempts_can_be_traces_of_their_own(traced: Traced) -> None:
    bus = made(traced, links_only=True)

    @bus.subscriber("orders.>")
    async def receipts(_: RawEvent) -> None: ...

    async with bus:
        await bus.publish(RawEvent("orders.order.placed"))
        await bus.drain()
    publish, process = traced.one("publish orders.order"), traced.one("process orders.order")
    assert process.parent is None
    assert trace_of(process) != trace_of(publish)
    assert [link.context.trace_id for link in process.links] == [trace_of(publish)]


async def test_an_event_that_was_created_elsewhere_keeps_its_context(traced: Traced) -> None:
    bus, given = made(traced), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    @bus.subscriber("orders.>")
    async def receipts(_: RawEvent) -> None: ...

    async with bus:
        envelope = await bus.publish(RawEvent("orders.order.placed"), headers={"traceparent": given})
        await bus.drain()
    publish, process = traced.one("publish orders.order"), traced.one("process orders.order")
    assert envelope.headers["traceparent"] == given
    assert publish.kind is SpanKind.CLIENT
    assert [link.context.span_id for link in publish.links] == [0xB7AD6B7169203331]
    assert process.parent is not None
    assert process.parent.span_id == 0xB7AD6B7169203331


async def test_an_outbox_and_its_relay_carry_the_trace_on(traced: Traced, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bus.db"
    bus = Bus(url, outbox=f"sqlite:///{tmp_path}/outbox.db", middleware=traced.around(url))
    done = asyncio.Event()

    @bus.subscriber("orders.>")
    async def receipts(_: RawEvent) -> None:
        done.set()

    async with bus, bus.worker():
        await bus.publish(RawEvent("orders.order.placed"))
        async with asyncio.timeout(20):
            await done.wait()
    publish, process = traced.one("publish orders.order"), traced.one("process orders.order")
    assert trace_of(process) == trace_of(publish)


async def test_what_is_put_off_is_no_error(traced: Traced) -> None:
    bus = made(traced)

    @bus.subscriber("orders.>")
    async def receipts(_: RawEvent) -> None:
        raise Snooze(600)

    async with bus:
        await bus.publish(RawEvent("orders.order.placed"))
        await bus.drain(timeout=30)
    span = traced.one("process orders.order")
    assert span.status.status_code is StatusCode.UNSET
    assert of(span)["postbus.snooze.seconds"] == 600


def test_a_publish_that_fails_is_an_error_and_sync_callers_are_traced_too(traced: Traced, tmp_path: Path) -> None:
    bus = made(traced, f"sqlite:///{tmp_path}/bus.db")

    @bus.on("orders.order.refused")
    def refuse(_: RawEvent) -> None:
        raise ValueError("no")

    with bus:
        bus.publish_sync(RawEvent("orders.order.placed"))
        with pytest.raises(ValueError, match="no"):
            bus.publish_sync(RawEvent("orders.order.refused"))
    good, bad = traced.named("publish orders.order")
    assert (good.status.status_code, bad.status.status_code) == (StatusCode.UNSET, StatusCode.ERROR)
    assert of(good)["messaging.system"] == "sqlite"
    assert of(bad)["error.type"] == "ValueError"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "redis://me:secret@cache:6380/1",
            {"messaging.system": "redis", "server.address": "cache", "server.port": 6380},
        ),
        ("postgres://db/shop", {"messaging.system": "postgresql", "server.address": "db"}),
    ],
)
def test_spans_name_the_server_and_no_secret(traced: Traced, url: str, expected: dict[str, Any]) -> None:
    published, _ = traced.around(url)

    assert isinstance(published, AroundPublish)
    with published.function(Publishing(RawEvent("a.b.c"))):
        pass
    span = traced.one("publish a.b")
    assert expected.items() <= of(span).items()
    assert "secret" not in span.to_json()


async def test_a_baggage_too_large_for_a_header_stays_here(traced: Traced) -> None:

    token = context.attach(baggage.set_baggage("big", "x" * 5000, baggage.set_baggage("bigger", "y" * 5000)))
    try:
        async with made(traced) as bus:
            envelope = await bus.publish(RawEvent("orders.order.placed"))
    finally:
        context.detach(token)
    assert set(envelope.headers) == {"traceparent"}
