"""Envelopes as CloudEvents, with the official SDK as the other side."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec
import pytest
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from postbus import CodecError, ConfigError, InvalidName
from postbus.catalog import Catalog
from postbus.cloudevents import from_binary, from_cloudevent, to_binary, to_cloudevent
from postbus.codec import JsonCodec, MsgpackCodec
from postbus.envelope import OBJECT, Envelope, new_id
from postbus.event import RawEvent, topic_of

SOURCE = "/shop/orders"
NOW = 1_780_000_000_123_456
FORMAT = JSONFormat()

names = st.from_regex(r"[a-z][a-z0-9_:-]{0,8}(\.[A-Za-z0-9_:-]{1,8}){0,3}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
header_names = st.sampled_from(
    ["traceparent", "correlationid", "X-Tenant", "id", "time", "subject", "data", "pbheaders", "a" * 30, "source"]
) | st.from_regex(r"[A-Za-z0-9._-]{1,12}", fullmatch=True)
json_bodies = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
).map(JsonCodec().encode)
bodies = st.tuples(st.just("application/json"), json_bodies) | st.tuples(
    st.sampled_from(["application/msgpack", "text/plain", "application/x-own"]), st.binary(max_size=30)
)
micros = st.integers(-62_000_000_000_000_000, 250_000_000_000_000_000)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    name = draw(names)
    content_type, body = draw(bodies)
    return Envelope(
        id_bytes=draw(st.binary(min_size=16, max_size=16)),
        name=name,
        topic=draw(st.just(topic_of(name)) | names),
        key=draw(st.none() | texts.filter(bool)),
        micros=draw(micros),
        version=draw(st.integers(1, 999_999_999)),
        format=content_type,
        body=body,
        expires_micros=draw(st.none() | micros),
        header_map=draw(st.dictionaries(header_names, texts, max_size=5)) or None,
    )


@given(envelope=envelopes())
def test_an_envelope_comes_back_from_structured_mode_as_it_was(envelope: Envelope) -> None:
    event = to_cloudevent(envelope, source=SOURCE)
    assert from_cloudevent(event) == envelope
    assert from_cloudevent(json.dumps(event)) == envelope
    assert from_cloudevent(json.dumps(event).encode()) == envelope


@given(envelope=envelopes())
def test_an_envelope_comes_back_from_binary_mode_as_it_was(envelope: Envelope) -> None:
    headers, body = to_binary(envelope, SOURCE)
    assert all(name.isascii() and value.isascii() and value.isprintable() for name, value in headers.items())
    assert from_binary({name.title(): value for name, value in headers.items()}, body) == envelope


@given(envelope=envelopes())
def test_the_official_sdk_reads_what_we_write_and_we_read_what_it_writes(envelope: Envelope) -> None:
    written = json.dumps(to_cloudevent(envelope, source=SOURCE)).encode()
    theirs = FORMAT.read(CloudEvent, written)
    assert theirs.get_id() == str(envelope.id)
    assert theirs.get_type() == envelope.name
    assert theirs.get_source() == SOURCE
    assert theirs.get_time() == envelope.time
    assert theirs.get_subject() == envelope.key
    assert from_cloudevent(FORMAT.write(theirs)) == envelope


@given(envelope=envelopes())
def test_the_official_sdk_agrees_on_binary_mode(envelope: Envelope) -> None:
    headers, body = to_binary(envelope, SOURCE)
    theirs = http.from_binary(http.HTTPMessage(headers, body), FORMAT, CloudEvent)
    assert theirs.get_time() == envelope.time
    assert theirs.get_subject() == envelope.key
    again = http.to_binary(theirs, FORMAT)
    assert from_binary(again.headers, body) == envelope  # their body may be JSON in another spelling


def test_each_part_of_an_envelope_has_its_attribute() -> None:
    envelope = Envelope(
        UUID(int=7).bytes,
        "orders.order.placed",
        "shop",
        "o-1",
        NOW,
        3,
        "application/json",
        b'{"amount":4200}',
        NOW + 1,
        {"correlationid": "c", "X-Tenant": "a&b", "empty": ""},
    )
    assert to_cloudevent(envelope, source=SOURCE) == {
        "specversion": "1.0",
        "id": "00000000-0000-0000-0000-000000000007",
        "source": "/shop/orders",
        "type": "orders.order.placed",
        "time": "2026-05-28T20:26:40.123456Z",
        "datacontenttype": "application/json",
        "dataschema": "urn:postbus:orders.order.placed:3",
        "subject": "o-1",
        "partitionkey": "o-1",
        "pbtopic": "shop",
        "expirytime": "2026-05-28T20:26:40.123457Z",
        "correlationid": "c",
        "pbheaders": "X-Tenant=a%26b&empty=",
        "data": {"amount": 4200},
    }


def test_bytes_that_are_no_json_travel_as_base64() -> None:
    catalog = Catalog(MsgpackCodec())
    envelope = catalog.seal(RawEvent("orders.order.placed", {"amount": 1}), micros=NOW)
    event = to_cloudevent(envelope, source=SOURCE)
    assert base64.b64decode(event["data_base64"]) == envelope.body
    assert "data" not in event
    assert catalog.open(from_cloudevent(event), None) == RawEvent("orders.order.placed", {"amount": 1})


def test_a_foreign_event_keeps_what_an_envelope_has_no_place_for_as_headers() -> None:
    event = {
        "specversion": "1.0",
        "id": "A-1",
        "source": "https://github.com/cloudevents",
        "type": "com.github.pull.opened",
        "subject": "123",
        "partitionkey": "repo-9",
        "dataschema": "https://example.org/schema",
        "time": "2018-04-05T17:31:00+02:00",
        "comexampleextension": "value",
        "sampledrate": 30,
        "flagged": True,
        "gone": None,
        "data": {"much": "wow"},
    }
    envelope = from_cloudevent(event)
    assert envelope.id == uuid5(NAMESPACE_URL, "https://github.com/cloudevents\nA-1")
    assert from_cloudevent(event | {"source": "/other"}).id != envelope.id
    assert (envelope.name, envelope.topic, envelope.key) == ("com.github.pull.opened", "com.github.pull", "repo-9")
    assert (envelope.version, envelope.format, envelope.body) == (1, "application/json", b'{"much":"wow"}')
    assert envelope.time == datetime(2018, 4, 5, 15, 31, tzinfo=UTC)
    assert envelope.headers == {
        "id": "A-1",
        "source": "https://github.com/cloudevents",
        "subject": "123",
        "dataschema": "https://example.org/schema",
        "comexampleextension": "value",
        "sampledrate": "30",
        "flagged": "true",
    }


@given(
    key=texts.filter(bool), data=st.dictionaries(texts, texts | st.integers(-9, 9), max_size=3), ext=texts.filter(bool)
)
def test_an_event_of_the_official_sdk_reaches_the_sdk_again(key: str, data: dict[str, Any], ext: str) -> None:
    time = datetime(2026, 5, 28, 20, 26, 40, 5, UTC)
    identity = {"type": "a.b.c", "source": "/s", "id": str(UUID(int=5))}
    theirs = CloudEvent({**identity, "time": time, "subject": key, "traceparent": ext}, data)
    message = http.to_binary(theirs, FORMAT)
    ours = from_binary(message.headers, message.body)
    back = FORMAT.read(CloudEvent, json.dumps(to_cloudevent(ours, source="/s")))
    assert back.get_data() == data
    assert back.get_attributes().items() >= theirs.get_attributes().items()


def test_what_the_sdk_makes_of_nothing_but_a_type_and_a_source_is_read() -> None:
    theirs = CloudEvent({"type": "a.b.c", "source": "/s"}, None)
    envelope = from_cloudevent(FORMAT.write(theirs))
    assert str(envelope.id) == theirs.get_id()
    assert envelope.body == b"null"
    assert from_cloudevent(theirs.get_attributes()) == envelope  # its attributes hold a datetime


def test_an_event_without_a_time_was_published_now() -> None:
    class Clock:
        def time(self) -> float:
            return 1_780_000_000.5

        def monotonic(self) -> float:
            return 0.0

    envelope = from_cloudevent({"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b"}, clock=Clock())
    assert envelope.micros == 1_780_000_000_500_000


def test_text_travels_as_text() -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b", "datacontenttype": "text/xml"}
    assert from_cloudevent(event | {"data": "<grüße/>"}).body == "<grüße/>".encode()
    assert from_cloudevent(event).body == b""


def test_structured_mode_is_known_by_its_content_type() -> None:
    event = to_cloudevent(Envelope(new_id(), "a.b", "a", None, NOW, 1, "application/json", b"1"), source=SOURCE)
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    assert from_binary(headers, json.dumps(event).encode()) == from_cloudevent(event)
    with pytest.raises(CodecError, match="one by one"):
        from_binary({"content-type": "application/cloudevents-batch+json"}, b"[]")


def test_nats_names_the_content_type_among_the_attributes() -> None:
    headers, body = to_binary(Envelope(new_id(), "a.b", "a", None, NOW, 1, "application/msgpack", b"\xc0"), SOURCE)
    headers["ce-datacontenttype"] = headers.pop("content-type")
    assert from_binary(headers, body).format == "application/msgpack"


GOOD: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a.b"}


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (b"{", CodecError),
        (b"\xff", CodecError),
        ("[]", CodecError),
        ("\ud800", CodecError),
        (b"[" * 100_000, CodecError),
        ([GOOD], CodecError),
        ({1: 2}, CodecError),
        ({}, CodecError),
        (GOOD | {"specversion": "0.3"}, CodecError),
        (GOOD | {"id": ""}, CodecError),
        (GOOD | {"id": "\ud800"}, CodecError),
        (GOOD | {"source": None}, CodecError),
        (GOOD | {"type": "a b"}, InvalidName),
        (GOOD | {"time": "yesterday"}, CodecError),
        (GOOD | {"time": "2018-04-05T17:31:00"}, CodecError),
        (GOOD | {"time": 5}, CodecError),
        (GOOD | {"expirytime": "0000-04-05T17:31:00Z"}, CodecError),
        (GOOD | {"subject": "x" * 201}, InvalidName),
        (GOOD | {"pbtopic": "a b"}, InvalidName),
        (GOOD | {"pbheaders": "%ff=1"}, CodecError),
        (GOOD | {"pbheaders": "a"}, CodecError),
        (GOOD | {"pbheaders": "a=%0A"}, InvalidName),
        (GOOD | {"some": {}}, CodecError),
        (GOOD | {"some ext": "1"}, InvalidName),
        (GOOD | {"data": 1, "data_base64": "AA=="}, CodecError),
        (GOOD | {"data_base64": "*"}, CodecError),
        (GOOD | {"data_base64": 5}, CodecError),
        (GOOD | {"data": float("nan")}, CodecError),
        (GOOD | {"data": {}, "datacontenttype": "text/xml"}, CodecError),
        (GOOD | {"data": "\ud800", "datacontenttype": "text/xml"}, CodecError),
    ],
)
def test_what_is_no_cloudevent_is_refused(event: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        from_cloudevent(event)


@given(
    event=st.dictionaries(
        st.sampled_from([*GOOD, "time", "data", "pbheaders"]) | texts, st.none() | texts | st.integers()
    )
)
def test_no_mapping_raises_anything_else(event: dict[str, Any]) -> None:
    with suppress(CodecError, InvalidName):
        from_cloudevent(GOOD | event)


@given(headers=st.dictionaries(st.sampled_from([f"ce-{n}" for n in GOOD]) | texts, texts), body=st.binary(max_size=20))
def test_no_headers_raise_anything_else(headers: dict[str, str], body: bytes) -> None:
    with suppress(CodecError, InvalidName):
        from_binary({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "a"} | headers, body)


@pytest.mark.parametrize("write", [lambda e, s: to_cloudevent(e, source=s), to_binary])
def test_what_cannot_be_written_is_refused(write: Callable[[Envelope, str], object]) -> None:
    envelope = Envelope(new_id(), "a.b", "a", None, NOW, 1, "application/json", b"1")
    for source in ("", "a b", "ä", None):
        with pytest.raises(ConfigError, match="URI reference"):
            write(envelope, source)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="holds no bytes"):
        write(msgspec.structs.replace(envelope, format=OBJECT), SOURCE)
    with pytest.raises(CodecError, match="years"):
        write(msgspec.structs.replace(envelope, micros=10**20), SOURCE)


def test_json_that_is_none_is_refused() -> None:
    with pytest.raises(CodecError):
        to_cloudevent(Envelope(new_id(), "a.b", "a", None, NOW, 1, "application/json", b"{"), source=SOURCE)
