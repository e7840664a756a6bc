"""What an event is called: the `@event` mark, names, topics, keys, patterns, and events without a class.

Owns the rules for names.  Knows nothing of bytes, transports or time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time
from enum import Enum
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID
from zlib import crc32

import msgspec

from .errors import CodecError, ConfigError, InvalidName, UnknownEvent
from .limits import MAX_DEPTH, OFFSET, misfit, too_deep
from .models import cause, dump, is_model, load, reason

__all__ = [
    "EventMark",
    "Pattern",
    "RawEvent",
    "event",
    "is_pattern",
    "key_text",
    "logs_of",
    "mark_if_any",
    "mark_of",
    "partition_of",
    "topic_of",
    "valid_name",
]

T = TypeVar("T")

_MARK = "__postbus_event__"
_NAME = re.compile(r"(?!-)[A-Za-z0-9_:-]+(?:\.[A-Za-z0-9_:-]+)*", re.ASCII)
_NAME_LENGTH = 200
KEY_BYTES = 200
# A claim looks at each of them.
_PARTITIONS = 256
_FLOAT = b"\xcb"  # how MessagePack begins one


def valid_name(text: object, what: str = "name") -> str:
    """Return `text` if every transport can carry it as a name, topic, subscription or namespace.

    Raises:
        InvalidName: with the value, the rule and an example.
    """
    if isinstance(text, str) and len(text) <= _NAME_LENGTH and _NAME.fullmatch(text):
        return text
    shown = repr(text) if len(repr(text)) <= 80 else repr(text)[:77] + "..."
    raise InvalidName(
        f"{shown} is not a valid {what}: expected dotted segments of A-Z a-z 0-9 _ : - , at most {_NAME_LENGTH} "
        f"characters, not starting with '-', such as 'orders.order.placed'"
    )


def topic_of(name: str) -> str:
    """The default topic of a wire name: without its last segment, so that one aggregate's events share a log."""
    head, dot, _ = name.rpartition(".")
    return head if dot else name


def logs_of(topic: str, partitions: int) -> tuple[str, ...]:
    """The logs that a topic of so many partitions may have: itself too, for what came when it was one log."""
    return (topic,) if partitions == 1 else (topic, *(f"{topic}#{number}" for number in range(partitions)))


def partition_of(partitions: int, key: str | None, id_bytes: bytes) -> int | None:
    """Which log of a topic an event goes to: always the same for a key, or for an id where there is none."""
    if partitions == 1:
        return None
    return crc32(id_bytes if key is None else key.encode()) % partitions


def key_text(value: object) -> str | None:
    """Return an aggregate's id as key text; `None` means no key and no order.

    Raises:
        InvalidName: when it is empty, too long, not encodable, or of a type whose text is no stable identity.
    """
    if type(value) is str and 0 < len(value) <= KEY_BYTES and value.isascii() and "\0" not in value:
        return value  # nearly every key there is
    match value:
        case None:
            return None
        case Enum():
            return key_text(value.value)
        case bool():
            raise InvalidName(f"{value!r} is not a valid key: expected text, int or UUID")
        case int() if value.bit_length() > KEY_BYTES * 3:
            raise InvalidName(f"a key of {value.bit_length()} bits is too long: at most {KEY_BYTES} bytes of text")
        case str() | int() | UUID():
            return _checked_key(str(value))
        case _:
            raise InvalidName(f"a key of type {type(value).__name__} is not valid: expected text, int or UUID")


def _checked_key(text: str) -> str:
    if not text:
        raise InvalidName("'' is not a valid key: expected some text, or None for no key")
    if "\0" in text:
        raise InvalidName(f"{text[:40]!r} is not a valid key: it holds a zero character, which no database stores")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidName(f"{text[:40]!r} is not a valid key: it holds a lone surrogate") from error
    if size > KEY_BYTES:
        raise InvalidName(f"a key of {size} bytes is too long: at most {KEY_BYTES} bytes, {text[:40]!r}...")
    return text


@dataclass(frozen=True, slots=True)
class EventMark:
    """What `@event` says of a class."""

    name: str
    topic: str
    key: Callable[[Any], object] | None
    version: int
    partitions: int = 1


def event(
    name: str,
    *,
    topic: str | None = None,
    key: str | Callable[[Any], object] | None = None,
    version: int = 1,
    partitions: int = 1,
) -> Callable[[type[T]], type[T]]:
    """Mark a class as an event: dataclass, msgspec.Struct, attrs class or pydantic model.

    Args:
        name: the stable wire name, `{context}.{aggregate}.{action}` in the past tense.
        topic: the log it is appended to; default the name without its last segment.
        key: an attribute name, or a callable on the event, that gives the aggregate's id.
        version: grows with each incompatible change of the class; see upcasters.
        partitions: over how many logs its topic is spread; the same for all events of a topic.  A key stays in one of
            them, so order by key is kept; events without a key go to any.

    The mark belongs to this class alone: a subclass needs its own.

    Raises:
        InvalidName: when `name` or `topic` is not valid.
        ConfigError: when `version`, `partitions` or `key` is not usable.
    """
    valid_name(name, "event name")
    if topic is not None:
        valid_name(topic, "topic")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ConfigError(f"event {name!r} has version {version!r}: expected a whole number from 1")
    if not isinstance(partitions, int) or isinstance(partitions, bool) or not 1 <= partitions <= _PARTITIONS:
        raise ConfigError(
            f"event {name!r} has partitions={partitions!r}: expected a whole number from 1 to {_PARTITIONS}"
        )

    def mark(cls: type[T]) -> type[T]:
        if not isinstance(cls, type):
            raise ConfigError(f"@event({name!r}) marks classes, and was given {cls!r}")
        mark = EventMark(name, topic or topic_of(name), _key_getter(cls, name, key), version, partitions)
        setattr(cls, _MARK, mark)
        return cls

    return mark


def mark_of(event_type: type[Any]) -> EventMark:
    """Return the class's own mark.

    Raises:
        UnknownEvent: when the class has none; the mark of a base class does not count.
    """
    mark = mark_if_any(event_type)
    if mark is not None:
        return mark
    inherited = getattr(event_type, _MARK, None)
    hint = f" (it inherits from {inherited.name!r}, and the mark is not inherited)" if inherited else ""
    raise UnknownEvent(f"{event_type.__qualname__} has no wire name{hint}: mark it with @event('orders.order.placed')")


def mark_if_any(event_type: Any) -> EventMark | None:
    """Return the class's own mark, or None where it has none."""
    mark = getattr(event_type, "__dict__", {}).get(_MARK)
    return mark if isinstance(mark, EventMark) else None


def _key_getter(cls: type[Any], name: str, key: str | Callable[[Any], object] | None) -> Callable[[Any], object] | None:
    if key is None or callable(key):
        return key
    if not isinstance(key, str) or not key.isidentifier():
        raise ConfigError(f"event {name!r} has key={key!r}: expected an attribute name or a callable")
    fields = _field_names(cls)
    if fields and key not in fields and not hasattr(cls, key):
        raise ConfigError(f"event {name!r} has key={key!r}, but {cls.__qualname__} has only {', '.join(fields)}")
    return attrgetter(key)


def _field_names(cls: type[Any]) -> tuple[str, ...]:
    for attribute in ("__struct_fields__", "__dataclass_fields__", "model_fields"):
        fields = getattr(cls, attribute, None)
        if fields:
            return tuple(fields)
    return tuple(getattr(field, "name", "") for field in getattr(cls, "__attrs_attrs__", ()))


def is_pattern(text: str) -> bool:
    """Whether `text` has a wildcard, and so names a set of events."""
    return "*" in text or ">" in text


class Pattern:
    """A set of names: `*` stands for one segment, a last `>` for one or more."""

    __slots__ = ("_regex", "text")

    def __init__(self, text: str) -> None:
        """Raises InvalidName when a wildcard shares a segment, or `>` is not last."""
        segments = text.split(".")
        for place, segment in enumerate(segments):
            if segment == "*" or (segment == ">" and place == len(segments) - 1):
                continue
            if is_pattern(segment):
                raise InvalidName(
                    f"{text!r} is not a valid pattern: '*' stands for one whole segment and '>' for the rest, "
                    f"as in 'orders.*' or 'orders.>'"
                )
            valid_name(segment, "pattern")
        self.text = text
        parts = [r"[^.]+" if s == "*" else r".+" if s == ">" else re.escape(s) for s in segments]
        self._regex = re.compile(r"\.".join(parts), re.ASCII)

    def matches(self, name: str) -> bool:
        """Whether `name` belongs to the set."""
        return self._regex.fullmatch(name) is not None

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


class RawEvent:
    """An event without a class, for producers and consumers that share only a name.

    Attributes:
        name: the wire name.
        payload: plain data: None, bool, int, float, str, bytes, datetime, UUID, Decimal, lists and dicts.
        key: the aggregate's id, or None.
    """

    __slots__ = ("key", "name", "payload")

    def __init__(self, name: str, payload: object = None, *, key: object = None) -> None:
        """Make a raw event; the payload is turned into plain data at once, so a bad one fails here.

        Raises:
            InvalidName: when `name` or `key` is not valid.
            CodecError: when the payload cannot be encoded.
        """
        self.name = valid_name(name, "event name")
        self.key = key_text(key)
        self.payload = _plain(name, payload)

    @classmethod
    def received(cls, name: str, payload: object, key: str | None) -> RawEvent:
        """Return a raw event from what a transport delivered, which was checked when it was sealed."""
        raw = cls.__new__(cls)
        raw.name, raw.payload, raw.key = name, payload, key
        return raw

    def decode(self, into: type[T]) -> T:
        """Return the payload as `into`; an empty payload gives `into()` where that is allowed.

        Raises:
            CodecError: when it does not fit, naming the event and the field.
        """
        try:
            if self.payload is None:
                return into()
            if is_model(into):
                return load(into, self.payload)  # type: ignore[no-any-return]
            return msgspec.convert(self.payload, into, strict=False, dec_hook=load)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            kind = getattr(into, "__qualname__", into)
            raise CodecError(f"event {self.name!r} does not decode into {kind}: {reason(error)}") from cause(error)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RawEvent):
            return NotImplemented
        return (self.name, self.key, self.payload) == (other.name, other.key, other.payload)

    __hash__ = None  # type: ignore[assignment]  # the payload may hold lists and dicts

    def __repr__(self) -> str:
        return f"RawEvent({self.name!r}, {self.payload!r}, key={self.key!r})"


def _plain(name: str, payload: object) -> object:
    try:
        if is_model(type(payload)):
            payload = dump(payload)
        # datetime, UUID and Decimal become text at once, so that a payload is the same on every transport.
        data = msgspec.to_builtins(payload, builtin_types=(bytes,), enc_hook=dump)
        # Once there and back: bytes show lone surrogates and integers beyond 64 bits, and tuples come back as lists.
        body = msgspec.msgpack.encode(data)
        data = msgspec.msgpack.decode(body)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise CodecError(f"the payload of event {name!r} cannot be encoded: {reason(error)}") from cause(error)
    fault = None
    if _FLOAT in body or OFFSET(body):
        fault = misfit(msgspec.to_builtins(payload, builtin_types=(bytes, datetime, time), enc_hook=dump))
    if len(body) > MAX_DEPTH and too_deep(data):
        fault = f"it nests deeper than {MAX_DEPTH} levels"
    if fault:
        raise CodecError(f"the payload of event {name!r} cannot be encoded: {fault}")
    return data
