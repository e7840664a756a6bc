"""What events look like, for others: JSON Schema of each, AsyncAPI of them all.  Reads declarations, no transport."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from .bus import Bus
from .errors import ConfigError
from .event import is_pattern, topic_of
from .models import is_model
from .subscription import Subscriber

__all__ = ["Described", "asyncapi", "described", "json_schemas", "schema_of"]

ASYNCAPI = "3.1.0"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LOCAL = "#/$defs/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One event as others are told of it.

    Attributes:
        name, topic, version: as its mark says.
        schema: the payload's JSON Schema, with references into `document`; None where only the name is known.
        document: what the references are resolved in.
        partitions: as its mark says.
    """

    name: str
    topic: str
    version: int
    schema: Mapping[str, Any] | None
    document: Mapping[str, Any]
    partitions: int = 1


def described(bus: Bus) -> dict[str, Described]:
    """Every event that the program names, by its wire name; those known by name only have no schema."""
    found = {}
    for name, event_type in bus.catalog.types().items():
        schema = schema_of(event_type)
        entry = bus.catalog.entry_of(event_type)
        found[name] = Described(
            name=name,
            topic=entry.topic,
            version=entry.version,
            schema=schema,
            document=schema,
            partitions=entry.partitions,
        )
    for name in _names(bus) - found.keys():
        found[name] = Described(name=name, topic=topic_of(name), version=1, schema=None, document={})
    return dict(sorted(found.items()))


def _names(bus: Bus) -> set[str]:
    interests = [*(h.interest for h in bus.handlers), *(s.interest for s in bus.subscribers)]
    return {name for interest in interests for name in interest.wants if not is_pattern(name)}


def schema_of(event_type: type[Any], template: str = _LOCAL) -> dict[str, Any]:
    """The JSON Schema of an event class, complete in itself.

    Raises:
        ConfigError: when a field's type has none.
    """
    try:
        if is_model(event_type):
            return dict(_model_schema(event_type, template))
        (schema,), components = msgspec.json.schema_components(
            [event_type], schema_hook=lambda kind: _model_schema(kind, template), ref_template=template
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{event_type.__qualname__} has no JSON Schema: {error}") from error
    return {**schema, "$defs": components} if components else dict(schema)


def _model_schema(kind: type[Any], template: str) -> dict[str, Any]:
    """By pydantic itself, which is loaded where there is a model; under the fields' own names, as models travel."""
    if not is_model(kind):
        raise TypeError(f"the type {getattr(kind, '__qualname__', kind)} has no JSON Schema")
    adapter = sys.modules["pydantic"].TypeAdapter(kind)
    ref = template.replace("{name}", "{model}")
    schema: dict[str, Any] = adapter.json_schema(by_alias=False, ref_template=ref, mode="serialization")
    return schema


def json_schemas(bus: Bus) -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) of every event class, by wire name; with its topic and version."""
    return {
        one.name: {
            "$schema": _DIALECT,
            "$id": f"urn:postbus:{one.name}:{one.version}",
            **_about(one),
            **one.schema,
        }
        for one in described(bus).values()
        if one.schema is not None
    }


def _about(one: Described) -> dict[str, Any]:
    """What a mark says, beside the name."""
    spread = {"x-postbus-partitions": one.partitions} if one.partitions > 1 else {}
    return {"x-postbus-topic": one.topic, "x-postbus-version": one.version, **spread}


# -- AsyncAPI


def asyncapi(bus: Bus, *, title: str = "events", version: str = "1.0.0") -> dict[str, Any]:
    """An AsyncAPI document: a channel for each topic, a message for each event, what each subscription receives.

    Args:
        bus: whose declarations.
        title: of the application.
        version: of the application.
    """
    events = described(bus)
    schemas: dict[str, Any] = {}
    messages = {_key(one.name): _message(bus, one, schemas) for one in events.values()}
    channels: dict[str, Any] = {}
    for one in events.values():
        channel = channels.setdefault(_key(one.topic), {"address": one.topic, "messages": {}})
        channel["messages"][_key(one.name)] = {"$ref": f"#/components/messages/{_key(one.name)}"}
    operations: dict[str, Any] = {}
    for subscriber in bus.subscribers:
        operations |= _operations(subscriber, events)
    return {
        "asyncapi": ASYNCAPI,
        "info": {"title": title, "version": version},
        "defaultContentType": bus.catalog.content_type,
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def _message(bus: Bus, one: Described, schemas: dict[str, Any]) -> dict[str, Any]:
    event_type = bus.catalog.types().get(one.name)
    message: dict[str, Any] = {"name": one.name, **_about(one)}
    if event_type is None:
        return message
    key = _key(one.name)
    schema = schema_of(event_type, f"#/components/schemas/{key}.{{name}}")
    schemas |= {f"{key}.{name}": part for name, part in schema.pop("$defs", {}).items()}
    return message | {"title": event_type.__qualname__, "payload": schema}


def _operations(subscriber: Subscriber, events: Mapping[str, Described]) -> dict[str, Any]:
    """An operation has one channel, so a subscription to several topics has several."""
    spec = subscriber.spec()
    taken = [one for one in events.values() if spec.takes(one.name, one.topic)]
    topics = list(dict.fromkeys(one.topic for one in taken))
    return {
        _key(spec.name if len(topics) == 1 else f"{spec.name}.{topic}"): {
            "action": "receive",
            "title": spec.name,
            "channel": {"$ref": f"#/channels/{_key(topic)}"},
            "messages": [
                {"$ref": f"#/channels/{_key(topic)}/messages/{_key(one.name)}"} for one in taken if one.topic == topic
            ],
            "x-postbus-handler": spec.handler,
        }
        for topic in topics
    }


def _key(name: str) -> str:
    """A wire name as AsyncAPI has keys."""
    return name.replace(":", "-")
