"""Whether programs with these schemas can read each other's events.  Pure: schemas in, problems out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError
from .schema import Described

__all__ = ["Problem", "problems", "read_file"]

# A reader's bound, and whether the writer's own must not be below it.
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that would break.

    Attributes:
        event: the wire name.
        field: the place in the payload, such as `lines[].amount`; empty for the event itself.
        message: what is wrong, and for whom.
    """

    event: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.event}{f' field {self.field}' if self.field else ''}: {self.message}"


def read_file(document: Any) -> dict[str, Described]:
    """The events of an exported document, AsyncAPI or JSON Schema.

    Raises:
        ConfigError: when it is neither.
    """
    if isinstance(document, dict) and str(document.get("asyncapi", "")).startswith("3."):
        messages = document.get("components", {}).get("messages", {})
        return {
            message["name"]: _event(message["name"], message, message.get("payload"), document)
            for message in messages.values()
        }
    if isinstance(document, dict) and all(isinstance(s, dict) and "x-postbus-version" in s for s in document.values()):
        return {name: _event(name, schema, schema, schema) for name, schema in document.items()}
    raise ConfigError("this is no export of `postbus schema export`: expected AsyncAPI 3 or its JSON Schemas")


def _event(name: str, about: _Schema, schema: _Schema | None, document: _Schema) -> Described:
    version, topic = int(about.get("x-postbus-version", 1)), str(about.get("x-postbus-topic", ""))
    partitions = int(about.get("x-postbus-partitions", 1))
    return Described(name=name, topic=topic, version=version, schema=schema, document=document, partitions=partitions)


def problems(old: Mapping[str, Described], new: Mapping[str, Described]) -> list[Problem]:
    """What breaks when programs of `new` run beside programs, and stored events, of `old`.

    An event whose version was raised may change as it likes: its upcasters turn the older form into the newer one.
    """
    found: list[Problem] = []
    for name, before in old.items():
        after = new.get(name)
        if after is None:
            found.append(Problem(name, "", "was removed: events that are stored, and their subscribers, still know it"))
            continue
        if before.topic and after.topic != before.topic:
            found.append(Problem(name, "", f"moved from topic {before.topic!r} to {after.topic!r}: order ends there"))
        elif after.partitions != before.partitions:
            was, now = before.partitions, after.partitions
            found.append(Problem(name, "", f"went from partitions={was} to {now}: order ends there"))
        if after.version < before.version:
            found.append(Problem(name, "", f"went back from version {before.version} to {after.version}"))
        if after.version != before.version or before.schema is None or after.schema is None:
            continue
        found += _unreadable(before, after, "what is stored cannot be read any more")
        found += _unreadable(after, before, "programs that run now cannot read what is published")
    return list(dict.fromkeys(found))


def _unreadable(writer: Described, reader: Described, whom: str) -> Iterator[Problem]:
    match = _Match(writer.document, reader.document)
    for field, what in match.differences(writer.schema or {}, reader.schema or {}, ""):
        yield Problem(writer.name, field, f"{what}: {whom}")


class _Match:
    """Whether what one schema writes, the other reads.  Remembers where it has been: types may hold themselves."""

    def __init__(self, writers: _Schema, readers: _Schema) -> None:
        self._writers = writers
        self._readers = readers
        self._seen: set[tuple[str, str]] = set()

    def differences(self, writer: _Schema, reader: _Schema, at: str) -> Iterator[tuple[str, str]]:
        """Places and what is wrong there."""
        pair = str(writer.get("$ref", "")), str(reader.get("$ref", ""))
        if all(pair):
            if pair in self._seen:
                return
            self._seen.add(pair)
        writer, reader = _resolved(writer, self._writers), _resolved(reader, self._readers)
        if not _says(reader):
            return
        alternatives = writer.get("anyOf") or writer.get("oneOf")
        if alternatives:
            for one in alternatives:
                yield from self.differences(one, reader, at)
            return
        choices = reader.get("anyOf") or reader.get("oneOf")
        if choices:
            if not any(self._fits(writer, one, at) for one in choices):
                yield (
                    at,
                    f"{_named(writer)} is none of {', '.join(_named(_resolved(c, self._readers)) for c in choices)}",
                )
            return
        yield from self._alike(writer, reader, at)

    def _fits(self, writer: _Schema, reader: _Schema, at: str) -> bool:
        fresh = _Match(self._writers, self._readers)
        fresh._seen = set(self._seen)
        return not list(fresh.differences(writer, reader, at))

    def _alike(self, writer: _Schema, reader: _Schema, at: str) -> Iterator[tuple[str, str]]:
        values, known = _values(writer), _values(reader)
        if known is not None:
            extra = None if values is None else [value for value in values if value not in known]
            if extra is None:
                yield at, f"{_named(writer)} is not one of {known}"
            elif extra:
                yield at, f"{', '.join(map(repr, extra))} is not one of {known}"
            return
        if not _types(writer, values) <= _types(reader, None) | _wider(reader):
            yield at, f"{_named(writer)} became {_named(reader)}" if at else f"{_named(writer)} is no {_named(reader)}"
            return
        if reader.get("format") not in (None, writer.get("format")):
            yield at, f"{_named(writer)} is not in the format {reader['format']}"
        yield from _bounds(writer, reader, at)
        yield from self._inside(writer, reader, at)

    def _inside(self, writer: _Schema, reader: _Schema, at: str) -> Iterator[tuple[str, str]]:
        written = writer.get("properties", {})
        for name in reader.get("required", ()):
            if name not in written and "additionalProperties" not in writer:
                yield _in(at, name), "is required on one side and unknown on the other"
        for name, schema in reader.get("properties", {}).items():
            if name in written:
                yield from self.differences(written[name], schema, _in(at, name))
        pairs = [(f"{at}.*", "additionalProperties"), (f"{at}[]", "items")]
        for place, part in pairs:
            if isinstance(writer.get(part), dict) and isinstance(reader.get(part), dict):
                yield from self.differences(writer[part], reader[part], place.lstrip("."))
        for n, (one, other) in enumerate(
            zip(writer.get("prefixItems", ()), reader.get("prefixItems", ()), strict=False)
        ):
            yield from self.differences(one, other, f"{at}[{n}]")


def _resolved(schema: _Schema, document: _Schema) -> _Schema:
    for _ in range(20):
        ref = schema.get("$ref")
        if not isinstance(ref, str):
            return schema
        found: Any = document
        for step in ref.removeprefix("#/").split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            raise ConfigError(f"the reference {ref!r} leads nowhere in its document")
        schema = found
    raise ConfigError(f"the reference {schema.get('$ref')!r} leads in a circle")


def _says(schema: _Schema) -> bool:
    """Whether it demands anything at all."""
    return bool(schema.keys() & {"type", "anyOf", "oneOf", "enum", "const", "properties", "$ref"})


def _values(schema: _Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return list(values) if values is not None else None


def _types(schema: _Schema, values: list[Any] | None) -> set[str]:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    if values is not None and "type" not in schema:
        return {kinds.get(type(value), "object") for value in values}
    found = schema.get("type", "object" if "properties" in schema else "anything")
    return {found} if isinstance(found, str) else set(found)


def _wider(reader: _Schema) -> set[str]:
    return {"integer"} if "number" in _types(reader, None) else set()


def _bounds(writer: _Schema, reader: _Schema, at: str) -> Iterator[tuple[str, str]]:
    for name in _LOWER:
        if name in reader and (name not in writer or writer[name] < reader[name]):
            yield at, f"{name} is {reader[name]} on one side and {writer.get(name, 'not there')} on the other"
    for name in _UPPER:
        if name in reader and (name not in writer or writer[name] > reader[name]):
            yield at, f"{name} is {reader[name]} on one side and {writer.get(name, 'not there')} on the other"
    if reader.get("pattern") not in (None, writer.get("pattern")):
        yield at, f"the pattern {reader['pattern']!r} is on one side only"


def _named(schema: _Schema) -> str:
    values = _values(schema)
    if values is not None:
        return f"one of {values}"
    form = f" ({schema['format']})" if "format" in schema else ""
    return "|".join(sorted(_types(schema, None))) + form


def _in(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
