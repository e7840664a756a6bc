"""Envelopes as CloudEvents 1.0 and back, structured and binary.  Owns the mapping; sends and receives nothing.

    id          the envelope's id; one that is no UUID becomes uuid5 of (source, id)
    type        name                    subject, partitionkey   key
    time        time                    expirytime              expires_at
    dataschema  urn:postbus:<name>:<version>                    pbtopic   topic, unless it is the name's own
    data        the body

Headers travel as extension attributes of their own (`correlationid`, `causationid`, `traceparent`), or together in
`pbheaders`, form-encoded, where their names are none.  What an envelope has no place for (a foreign source, schema or
id, a subject beside a partition key) becomes a header of the attribute's name.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from .clock import Clock, SystemClock
from .codec import JsonCodec
from .envelope import EPOCH, OBJECT, Envelope, checked_headers
from .errors import CodecError, ConfigError
from .event import key_text, topic_of, valid_name

__all__ = ["from_binary", "from_cloudevent", "to_binary", "to_cloudevent"]

_JSON: Final = JsonCodec()
_STRUCTURED: Final = "application/cloudevents"
_SOURCE: Final = re.compile(r"[!-~]+")
_EXTENSION: Final = re.compile(r"[a-z0-9]{1,20}")
_SCHEMA: Final = re.compile(r"urn:postbus:(.+):([1-9][0-9]{0,8})")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Attributes with a place of their own: no header may pass for one.
_TAKEN: Final = frozenset(
    {"specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema", "data"}
    | {"partitionkey", "expirytime", "pbtopic", "pbheaders"}
)
# What HTTP and NATS headers carry as it is: printable ASCII but for space, quote and percent.
_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def to_cloudevent(envelope: Envelope, *, source: str) -> dict[str, Any]:
    """Return an envelope as a CloudEvent in structured mode, ready for a JSON library.

    Args:
        envelope: what was published.
        source: a URI reference that names the publishing system, such as '/shop/orders'.

    Raises:
        ConfigError: when `source` is none.
        CodecError: when the envelope holds no bytes, or JSON that is none.
    """
    event: dict[str, Any] = dict(_attributes(envelope, source))
    if not _is_json(envelope.format):
        event["data_base64"] = base64.b64encode(envelope.body).decode()
    elif envelope.body:
        event["data"] = _JSON.plain(envelope.body)
    return event


def from_cloudevent(event: Mapping[str, Any] | str | bytes, *, clock: Clock | None = None) -> Envelope:
    """Return the envelope of a CloudEvent in structured mode, given as JSON or as what a JSON library made of it.

    Args:
        event: the CloudEvent.
        clock: says when an event without a time was published: now.

    Raises:
        CodecError: when it is no CloudEvent 1.0.
        InvalidName: when its type, key or extensions are nothing that postbus can carry.
    """
    if isinstance(event, str | bytes):
        event = _parsed(event)
    if not isinstance(event, Mapping) or not all(isinstance(name, str) for name in event):
        raise CodecError(f"a CloudEvent is a JSON object, not {type(event).__name__}")
    attributes = _texts({name: value for name, value in event.items() if name not in ("data", "data_base64")})
    return _envelope(attributes, _structured_body(event, attributes.get("datacontenttype", _JSON.content_type)), clock)


def to_binary(envelope: Envelope, source: str) -> tuple[dict[str, str], bytes]:
    """Return an envelope as a CloudEvent in binary mode: headers as HTTP and NATS carry them, and the body as it is.

    Raises:
        ConfigError, CodecError: as `to_cloudevent`.
    """
    attributes = _attributes(envelope, source)
    headers = {"content-type": attributes.pop("datacontenttype")}
    for name, value in attributes.items():
        headers[f"ce-{name}"] = quote(value, safe=_SAFE)
    return headers, envelope.body


def from_binary(headers: Mapping[str, str], body: bytes, *, clock: Clock | None = None) -> Envelope:
    """Return the envelope of a CloudEvent in binary mode; one in structured mode is known by its content type.

    Raises:
        CodecError, InvalidName: as `from_cloudevent`.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    content_type = lowered.get("content-type")
    if content_type is not None and content_type.strip().lower().startswith(_STRUCTURED):
        if content_type.strip().lower().startswith(_STRUCTURED + "-"):
            raise CodecError(f"{content_type!r:.80} holds several CloudEvents: give them one by one")
        return from_cloudevent(body, clock=clock)
    try:
        attributes = {name[3:]: unquote(value, errors="strict") for name, value in lowered.items() if name[:3] == "ce-"}
    except UnicodeDecodeError as error:
        raise CodecError(f"a CloudEvent's header is no percent-encoded UTF-8: {error}") from error
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    return _envelope(attributes, body, clock)


# -- out


def _attributes(envelope: Envelope, source: str) -> dict[str, str]:
    if not isinstance(source, str) or not _SOURCE.fullmatch(source):
        raise ConfigError(f"source={source!r}: expected a URI reference such as '/shop/orders'")
    if envelope.format == OBJECT:
        raise CodecError(f"event {envelope.name!r} holds no bytes: its transport passes objects; seal it with a codec")
    found: dict[str, str | None] = {
        "specversion": "1.0",
        "id": str(envelope.id),
        "source": source,
        "type": envelope.name,
        "time": _time_text(envelope.micros),
        "datacontenttype": envelope.format,
        "dataschema": f"urn:postbus:{envelope.name}:{envelope.version}",
        "subject": envelope.key,
        "partitionkey": envelope.key,
        "pbtopic": None if envelope.topic == topic_of(envelope.name) else envelope.topic,
        "expirytime": None if envelope.expires_micros is None else _time_text(envelope.expires_micros),
    }
    escaped: list[tuple[str, str]] = []
    for name, value in envelope.headers.items():
        if value and name not in _TAKEN and _EXTENSION.fullmatch(name):
            found[name] = value
        else:
            escaped.append((name, value))
    found["pbheaders"] = urlencode(escaped) or None
    return {name: value for name, value in found.items() if value is not None}


def _time_text(micros: int) -> str:
    try:
        at = EPOCH + timedelta(microseconds=micros)
    except OverflowError as error:
        raise CodecError(f"a CloudEvent has no time {micros} us from 1970: expected years from 1 to 9999") from error
    return at.isoformat().removesuffix("+00:00") + "Z"


# -- in


def _parsed(text: str | bytes) -> Any:
    return _JSON.plain(_utf8(text) if isinstance(text, str) else text)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise CodecError(f"{text!r:.80} holds a lone surrogate, which no CloudEvent can") from error


def _texts(attributes: Mapping[str, Any]) -> dict[str, str]:
    """Attributes in the canonical text of their types; null is as good as absent."""
    texts: dict[str, str] = {}
    for name, value in attributes.items():
        match value:
            case None:
                continue
            case str():
                _utf8(value)
                texts[name] = value
            case bool():
                texts[name] = "true" if value else "false"
            case int():
                texts[name] = str(value)
            case datetime():
                texts[name] = value.isoformat()
            case _:
                raise CodecError(f"the CloudEvent's {name!r:.80} is {type(value).__name__}: expected text")
    return texts


def _structured_body(event: Mapping[str, Any], content_type: str) -> bytes:
    data, encoded = event.get("data"), event.get("data_base64")
    if encoded is not None:
        if data is not None or not isinstance(encoded, str):
            raise CodecError("a CloudEvent has either data or, as text, data_base64")
        try:
            return base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise CodecError(f"the CloudEvent's data_base64 is not base64: {error}") from error
    if _is_json(content_type):
        return _JSON.encode(data)
    if data is None:
        return b""
    if not isinstance(data, str):
        raise CodecError(f"the CloudEvent's data is {type(data).__name__}, and its content type {content_type!r:.80}")
    return _utf8(data)


def _is_json(content_type: str) -> bool:
    bare = content_type.partition(";")[0].strip().lower()
    return bare.endswith(("/json", "+json"))


def _envelope(given: dict[str, str], body: bytes, clock: Clock | None) -> Envelope:
    """Take from `given` what an envelope has a place for; what is left becomes headers."""
    if given.pop("specversion", None) != "1.0":
        raise CodecError("expected a CloudEvent with specversion '1.0'")
    for name in ("id", "source", "type"):
        if not given.get(name):
            raise CodecError(f"the CloudEvent has no {name!r}, which every CloudEvent needs")
    name = valid_name(given.pop("type"), "event name")
    event_id, at, expires = _taken_id(given), given.pop("time", None), given.pop("expirytime", None)
    now = int((clock or SystemClock()).time() * 1e6) if at is None else 0
    key = key_text(given.pop("partitionkey", None) or given.get("subject"))
    if given.get("subject") == key:
        given.pop("subject", None)
    version = _taken_version(given, name)
    topic = given.pop("pbtopic", None)
    content_type = given.pop("datacontenttype", _JSON.content_type)
    return Envelope(
        id_bytes=event_id.bytes,
        name=name,
        topic=topic_of(name) if topic is None else valid_name(topic, "topic"),
        key=key,
        micros=now if at is None else _micros(at, "time"),
        version=version,
        format=content_type,
        body=body,
        expires_micros=None if expires is None else _micros(expires, "expirytime"),
        header_map=checked_headers(given | _escaped(given.pop("pbheaders", ""))),
    )


def _taken_id(given: dict[str, str]) -> UUID:
    """The id; one that is no UUID is kept as a header, for whoever looks for it at its source."""
    if _UUID.fullmatch(given["id"]):
        return UUID(given.pop("id"))
    return uuid5(NAMESPACE_URL, f"{given['source']}\n{given['id']}")  # a source holds no line break


def _taken_version(given: dict[str, str], name: str) -> int:
    """The class's version, of an event that was published by a postbus: then its source says nothing new."""
    schema = _SCHEMA.fullmatch(given.get("dataschema", ""))
    if schema is None or schema[1] != name:
        return 1
    del given["dataschema"], given["source"]
    return int(schema[2])


def _micros(text: str, attribute: str) -> int:
    try:
        at = msgspec.convert(text, datetime)
        return (at - EPOCH) // timedelta(microseconds=1)
    except (msgspec.ValidationError, TypeError) as error:  # TypeError: it has no time zone
        raise CodecError(f"the CloudEvent's {attribute} is {text!r:.80}: expected RFC 3339 with a time zone") from error


def _escaped(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict")) if text else {}
    except ValueError as error:
        raise CodecError(f"the CloudEvent's pbheaders are not form-encoded: {text!r:.80}") from error
