"""Traces by OpenTelemetry's messaging conventions: from each publish, through outbox and transport, to every attempt.

    bus = Bus(url, middleware=tracing(url))

The trace context travels as `traceparent` in the event's headers.  A bus without this middleware pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TypeAlias
from urllib.parse import urlsplit

from opentelemetry import propagate, trace
from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from ..address import Address
from ..context import DeliveryContext
from ..delivery import Snooze
from ..envelope import CORRELATION
from ..event import RawEvent, mark_if_any, topic_of
from ..failure import describe
from ..middleware import Middleware, Next, Publishing, around_delivery, around_publish

__all__ = ["CONVENTIONS", "tracing"]

# Names as of these conventions; they are in development, so the constants of a library would change under us.
CONVENTIONS = "https://opentelemetry.io/schemas/1.44.0"

_SYSTEMS = {"postgres": "postgresql", "rediss": "redis", "unix": "redis", "amqp": "rabbitmq", "amqps": "rabbitmq"}
# Of a header's value, as `checked_headers` has it.
_LONGEST = 8192
_Attributes: TypeAlias = dict[str, str | int]


def tracing(
    url: str | Address, *, tracer_provider: TracerProvider | None = None, links_only: bool = False
) -> tuple[Middleware, ...]:
    """Return the middleware that makes a bus traced; give it to `Bus(middleware=...)`, outermost.

    Args:
        url: the bus's own, for what the spans say of the system and server; no secret of it is used.
        tracer_provider: where spans go; default the global one.
        links_only: each attempt is a trace of its own that links to the publish; by default it is its child, too.
    """
    tracer = trace.get_tracer("postbus", version("postbus"), tracer_provider, schema_url=CONVENTIONS)
    system = _system_of(Address.parse(url))

    @around_publish
    def published(publishing: Publishing) -> Iterator[None]:
        span = _publish_span(tracer, system, publishing)
        with _running(span):
            try:
                yield
            finally:
                if len(publishing.envelopes) == 1:
                    span.set_attribute("messaging.message.id", str(publishing.envelopes[0].id))

    @around_delivery
    async def processed(_: object, context: DeliveryContext, call_next: Next) -> object:
        creation = propagate.extract(context.headers)
        cause = trace.get_current_span(creation).get_span_context()
        span = tracer.start_span(
            f"process {context.envelope.topic}",
            context=TraceContext() if links_only else creation,
            kind=SpanKind.CONSUMER,
            attributes=system | _of_delivery(context),
            links=[Link(cause)] if cause.is_valid else (),
        )
        with _running(span):
            return await call_next()

    return published, processed


@contextmanager
def _running(span: Span) -> Iterator[None]:
    """Inside the span, which ends with it; an error's text is as in dead letters: redacted, and bounded."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except Snooze as later:
            span.set_attribute("postbus.snooze.seconds", later.seconds)
            raise
        except BaseException as error:
            failure = describe(error)
            span.set_attribute("error.type", failure.error)
            span.set_status(Status(StatusCode.ERROR, failure.message))
            texts = {"type": failure.error, "message": failure.message, "stacktrace": failure.traceback}
            span.add_event("exception", {f"exception.{name}": text for name, text in texts.items()})
            raise


def _publish_span(tracer: Tracer, system: _Attributes, publishing: Publishing) -> Span:
    """Of one event: what created it.  Of a batch, or of what was created elsewhere: what sends it, with links."""
    events, headers = publishing.events, publishing.headers
    topics = {_topic_of(event) for event in events}
    topic = topics.pop() if len(topics) == 1 else ""
    given = trace.get_current_span(propagate.extract(headers, TraceContext())).get_span_context()
    attributes = system | _operation("publish", "send", topic, headers.get(CORRELATION))
    links = [Link(given)] if given.is_valid else []
    if len(events) > 1:
        attributes["messaging.batch.message_count"] = len(events)
        links += [] if links else [_created(tracer, system, publishing, place) for place in range(len(events))]
    kind = SpanKind.CLIENT if links else SpanKind.PRODUCER
    span = tracer.start_span(f"publish {topic}".rstrip(), kind=kind, attributes=attributes, links=links)
    if not links:
        headers.update(_carried(span))
    return span


def _created(tracer: Tracer, system: _Attributes, publishing: Publishing, place: int) -> Link:
    topic = _topic_of(publishing.events[place])
    about = system | _operation("create", "create", topic)
    span = tracer.start_span(f"create {topic}".rstrip(), kind=SpanKind.PRODUCER, attributes=about)
    publishing.own[place].update(_carried(span))
    span.end()
    return Link(span.get_span_context())


def _carried(span: Span) -> dict[str, str]:
    """The headers that carry a span's context, without what no transport could: a baggage may be of any size."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span))
    return {name: value for name, value in carrier.items() if len(value) <= _LONGEST}


def _operation(name: str, kind: str, topic: str, correlation: str | None = None) -> _Attributes:
    known = {"operation.name": name, "operation.type": kind, "destination.name": topic}
    known["message.conversation_id"] = correlation or ""
    return {f"messaging.{attribute}": value for attribute, value in known.items() if value}


def _of_delivery(context: DeliveryContext) -> _Attributes:
    operation = _operation("process", "process", context.envelope.topic, context.envelope.correlation_id)
    return operation | {
        "messaging.message.id": str(context.id),
        "messaging.consumer.group.name": context.subscription,
        "messaging.destination.subscription.name": context.subscription,
        "postbus.event.name": context.name,
        "postbus.delivery.attempt": context.attempt,
    }


def _topic_of(event: object) -> str:
    if isinstance(event, RawEvent):
        return topic_of(event.name)
    mark = mark_if_any(type(event))
    return "" if mark is None else mark.topic


def _system_of(address: Address) -> _Attributes:
    parts = urlsplit(f"x:{address.rest}")
    server: dict[str, str | int | None] = {"server.address": parts.hostname, "server.port": parts.port}
    known: _Attributes = {"messaging.system": _SYSTEMS.get(address.scheme, address.scheme)}
    return known | {name: value for name, value in server.items() if value}
