"""Which class belongs to which wire name, and the two turns of the road: seal and open.

One catalog for each bus; nothing here is global.  Knows no transport, and no time but what it is given.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from .codec import Codec, codec_for
from .envelope import CAUSATION, CORRELATION, OBJECT, Envelope, checked_headers, new_id, new_uuid
from .errors import CodecError, ConfigError, InvalidName, TooLarge, UnknownEvent
from .event import KEY_BYTES, EventMark, RawEvent, key_text, mark_if_any, mark_of, partition_of, topic_of, valid_name
from .models import cause, reason

__all__ = ["Catalog", "Entry", "Hook", "Upcaster"]

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]

_MAX_SIZE: Final = 1024 * 1024
# What an event without a payload looks like: nothing at all, MessagePack's nil, JSON's null.
_EMPTY: Final = frozenset({b"", b"\xc0", b"null"})


class Hook(Protocol):
    """What is done to envelopes on their way out and in: signing, encryption, compression."""

    def seal(self, envelope: Envelope) -> Envelope:
        """Return what is published in its stead."""
        ...

    def open(self, envelope: Envelope) -> Envelope:
        """Undo `seal`.

        Raises:
            CodecError: when that is not possible; the delivery becomes a dead letter at once.
        """
        ...


class Entry(msgspec.Struct, frozen=True):
    """What is known of one event class."""

    event_type: type[Any]
    name: str
    topic: str
    key: Callable[[Any], object] | None
    version: int
    partitions: int = 1


class Catalog:
    """The events of one bus."""

    def __init__(
        self, codec: Codec, *, max_size: int = _MAX_SIZE, objects: bool = False, hooks: Sequence[Hook] = ()
    ) -> None:
        """Make an empty catalog.

        Args:
            codec: what bodies are written with; bodies of other formats are read by their own content type.
            max_size: the most bytes a body may have, on the way out and in.
            objects: the transport passes events themselves, so sealing encodes nothing.
            hooks: applied in this order when sealing, and backwards when opening.
        """
        if not isinstance(max_size, int) or isinstance(max_size, bool) or max_size < 1:
            raise ConfigError(f"max_size={max_size!r}: expected bytes, as a whole number from 1")
        self.objects = objects
        self._codec = codec
        self._encode = codec.encode
        self._format = OBJECT if objects else codec.content_type
        self._max_size = max_size
        self._hooks = tuple(hooks)
        self._readers: dict[str, Codec] = {codec.content_type: codec}
        self._entries: dict[type[Any], Entry] = {}
        self._by_name: dict[str, Entry] = {}
        self._partitions: dict[str, tuple[int, type[Any]]] = {}
        self._upcasters: dict[tuple[str, int], Upcaster] = {}
        self._lock = threading.Lock()  # for writers; readers need none, for entries are never changed

    # -- what is known

    @property
    def content_type(self) -> str:
        """What encoded events are published as."""
        return self._codec.content_type

    def add(self, event_type: type[Any]) -> Entry:
        """Take an event class in; again is fine.

        Raises:
            UnknownEvent: when it is not marked.
            ConfigError: when another class has its name, or other partitions for its topic.
        """
        mark = mark_of(event_type)
        with self._lock:
            known = self._by_name.get(mark.name)
            if known is None:
                self._check_partitions(event_type, mark)
                known = Entry(event_type, mark.name, mark.topic, mark.key, mark.version, mark.partitions)
                self._by_name[mark.name] = known
                self._entries[event_type] = known
        if known.event_type is not event_type:
            raise ConfigError(
                f"two classes are named {mark.name!r}: {_path(known.event_type)} and {_path(event_type)}; "
                f"give one of them another name, or use one class in both places"
            )
        return known

    def _check_partitions(self, event_type: type[Any], mark: EventMark) -> None:
        """One key of a topic has one place, whatever its events are called."""
        partitions, known = self._partitions.setdefault(mark.topic, (mark.partitions, event_type))
        if partitions != mark.partitions:
            raise ConfigError(
                f"topic {mark.topic!r} has partitions={partitions} by {_path(known)}, and partitions="
                f"{mark.partitions} by {_path(event_type)}: give all events of a topic the same"
            )

    def entry_of(self, event_type: type[Any]) -> Entry:
        """Return what is known of a class, taking it in when it is new; raises as `add` does."""
        return self._entries.get(event_type) or self.add(event_type)

    def types(self) -> Mapping[str, type[Any]]:
        """Every class by its wire name."""
        with self._lock:
            return MappingProxyType({name: entry.event_type for name, entry in self._by_name.items()})

    def upcast(self, name: str, from_version: int, fn: Upcaster) -> None:
        """Let `fn` turn a payload of `from_version` into one of the next version.  The same one again is fine.

        Raises:
            InvalidName, ConfigError: when the name or version is not one, or another function has this step.
        """
        valid_name(name, "event name")
        if not isinstance(from_version, int) or isinstance(from_version, bool) or from_version < 1:
            raise ConfigError(f"upcaster of {name!r} from version {from_version!r}: expected a whole number from 1")
        with self._lock:
            known = self._upcasters.setdefault((name, from_version), fn)
        if known is not fn:
            raise ConfigError(
                f"two upcasters turn version {from_version} of {name!r} into the next: {_path(known)} and {_path(fn)}"
            )

    # -- seal

    def seal(
        self,
        event: object,
        *,
        key: object = None,
        id: UUID | bytes | None = None,  # noqa: A002 - the word of the public API
        headers: Mapping[str, str] | None = None,
        micros: int,
        expires_micros: int | None = None,
    ) -> Envelope:
        """Put an event into an envelope: name, topic, key, version, and bytes unless events are passed as objects.

        `key` wins over the one that the class's mark names.

        Raises:
            UnknownEvent: when the event's class is not marked.
            InvalidName: when key or headers are not valid.
            CodecError: when it cannot be encoded.
            TooLarge: when its bytes are over the limit.
        """
        entry = self._entries.get(type(event))
        if entry is None:
            entry = self._raw_entry(event) if type(event) is RawEvent else self.add(type(event))
        try:
            if key is None and entry.key is not None:
                key = entry.key(event)
            text = None if key is None else key_text(key)
        except InvalidName as error:
            error.add_note(f"the key of event {entry.name!r}")
            raise
        id_bytes = new_id() if id is None else _id_bytes(id)
        envelope = Envelope(
            id_bytes,
            entry.name,
            entry.topic,
            text,
            micros,
            entry.version,
            self._format,
            b"" if self.objects else self._encode(event),
            expires_micros,
            None if headers is None else checked_headers(headers),
            None if entry.partitions == 1 else partition_of(entry.partitions, text, id_bytes),
        )
        if self.objects:
            return envelope
        if self._hooks:
            envelope = self._hooked(envelope)
        if len(envelope.body) > self._max_size:
            raise TooLarge(
                f"event {envelope.name!r} is {len(envelope.body):,} bytes, over max_size={self._max_size:,}: "
                f"store what is large elsewhere and publish its address, or raise max_size"
            )
        return envelope

    def sealer(self, event_type: type[Any]) -> Callable[[Any, int], Envelope]:
        """Return what seals events of one class, given event and microseconds: the same as `seal`.

        Where objects are passed, with all that is known of the class taken beforehand.
        """
        entry = self.entry_of(event_type)
        if not self.objects or entry.partitions > 1:
            return lambda event, micros: self.seal(event, micros=micros)
        name, topic, key, version, form = entry.name, entry.topic, entry.key, entry.version, self._format
        fresh = new_uuid

        def keyless(_event: object, micros: int) -> Envelope:
            return Envelope(fresh().bytes, name, topic, None, micros, version, form, b"", None, None)

        def keyed(event: object, micros: int) -> Envelope:
            text = of(event)
            if type(text) is not str or not (0 < len(text) <= KEY_BYTES and text.isascii() and "\0" not in text):
                try:  # what nearly no key needs
                    text = key_text(text)
                except InvalidName as error:
                    error.add_note(f"the key of event {name!r}")
                    raise
            return Envelope(fresh().bytes, name, topic, text, micros, version, form, b"", None, None)

        if key is None:
            return keyless
        of = key
        return keyed

    def sealed(self, envelope: Envelope, event: object) -> Envelope:
        """Return an envelope with the bytes of its event: what a transport that passes objects needs for dead letters.

        No size is too large here: what already happened must be shown.

        Raises:
            CodecError: when the event cannot be encoded.
        """
        if envelope.format != OBJECT:
            return envelope
        body = self._encode(event)
        return self._hooked(msgspec.structs.replace(envelope, format=self._codec.content_type, body=body))

    def amended(self, envelope: Envelope, payload: object) -> Envelope:
        """Return an envelope with another payload and an id of its own, which names the old one as its cause.

        Its time is the old one's, for that is when it happened; it expires no more, for somebody wants it.

        Raises:
            CodecError: when it cannot be encoded, or this program's class of that name and version would not take it.
            TooLarge: when its bytes are over the limit.
        """
        headers = {**envelope.headers, CAUSATION: str(envelope.id)}
        headers.setdefault(CORRELATION, str(envelope.id))
        body = self._encode(RawEvent(envelope.name, payload))
        made = msgspec.structs.replace(
            envelope,
            id_bytes=new_id(),
            format=self._codec.content_type,
            body=body,
            expires_micros=None,
            header_map=headers,
        )
        known = self._by_name.get(envelope.name)
        if known is not None and known.version == envelope.version:
            self._codec.decode(body, known.event_type)
        sealed = self._hooked(made)
        if len(sealed.body) > self._max_size:
            raise TooLarge(f"event {envelope.name!r} is {len(sealed.body):,} bytes, over max_size={self._max_size:,}")
        return sealed

    def _hooked(self, envelope: Envelope) -> Envelope:
        for hook in self._hooks:
            envelope = hook.seal(envelope)
        return envelope

    def _raw_entry(self, event: RawEvent) -> Entry:
        """An event without a class goes where its class would, and counts as the version this program knows."""
        known = self._by_name.get(event.name)
        if known is None:
            topic = topic_of(event.name)
            partitions, _ = self._partitions.get(topic, (1, None))
            return Entry(RawEvent, event.name, topic, _raw_key, 1, partitions)
        return Entry(RawEvent, known.name, known.topic, _raw_key, known.version, known.partitions)

    # -- open

    def open(self, envelope: Envelope, into: type[Any] | None) -> Any:
        """Return the event of an envelope as `into`, or as a `RawEvent` where that is None or `RawEvent`.

        Older versions pass through the upcasters there are, one step after the other, and are then read tolerantly.

        Raises:
            UnknownEvent: when it is of a newer version than the class: a newer program may know it.
            CodecError: when it cannot be decoded, is over the limit, or a hook refuses it.
        """
        self._refuse_oversize(envelope)
        for hook in reversed(self._hooks):
            envelope = hook.open(envelope)
        if self._hooks:
            self._refuse_oversize(envelope)  # a hook may have made it longer
        codec = self._readers.get(envelope.format) or self._reader(envelope)
        if into is None or into is RawEvent:
            return RawEvent.received(envelope.name, self._plain(codec, envelope), envelope.key)
        # A class asked for by annotation may read events of other names: it takes their fields as they come.
        own = self._entries.get(into) or mark_if_any(into)
        body = envelope.body
        if own is not None and own.version != envelope.version and own.name == envelope.name:
            body = self._of_version(own.version, codec, envelope)
        if len(body) <= 4 and body in _EMPTY:
            return RawEvent.received(envelope.name, None, envelope.key).decode(into)
        return codec.decode(body, into)

    def _refuse_oversize(self, envelope: Envelope) -> None:
        if len(envelope.body) > self._max_size:
            raise CodecError(
                f"event {envelope.name!r} is {len(envelope.body):,} bytes, over max_size={self._max_size:,}: "
                f"it was not looked at"
            )

    def _reader(self, envelope: Envelope) -> Codec:
        codec = codec_for(envelope.format)
        if codec is None:
            raise CodecError(
                f"event {envelope.name!r} has the format {envelope.format!r:.80}, which nothing here reads: "
                f"expected {self._codec.content_type}, application/msgpack or application/json"
            )
        # Kept by its own name and not by the envelope's spelling of it, or strangers could fill the memory.
        return self._readers.setdefault(codec.content_type, codec)

    def _plain(self, codec: Codec, envelope: Envelope) -> Any:
        try:
            return codec.plain(envelope.body) if envelope.body else None
        except CodecError as error:
            raise CodecError(f"event {envelope.name!r}: {error}") from error.__cause__

    def _of_version(self, version: int, codec: Codec, envelope: Envelope) -> bytes:
        """The body as `version` would have it, as far as there are upcasters."""
        if envelope.version > version:
            raise UnknownEvent(
                f"event {envelope.name!r} is of version {envelope.version}, and this program knows up to {version}: "
                f"update it, or let a newer worker take it"
            )
        steps = sorted(v for name, v in self._upcasters if name == envelope.name and envelope.version <= v < version)
        if not steps:
            return envelope.body
        data = self._plain(codec, envelope)
        for step in steps:
            data = _upcasted(self._upcasters[envelope.name, step], data, f"event {envelope.name!r} of version {step}")
        try:
            return codec.encode(data)
        except CodecError as error:
            raise CodecError(f"event {envelope.name!r}, brought to version {version}: {error}") from error.__cause__


def _upcasted(fn: Upcaster, data: object, what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise CodecError(f"{what} is no mapping, which an upcaster needs, but {type(data).__name__}")
    try:
        result = fn(data)
    except Exception as error:  # noqa: BLE001 - the user's code, given a payload it may not expect
        why = f"{type(error).__name__}: {reason(error)}"
        raise CodecError(f"{what}: its upcaster {_path(fn)} raised {why}") from cause(error)
    if not isinstance(result, dict):
        raise CodecError(f"{what}: its upcaster {_path(fn)} returned {type(result).__name__} instead of a dict")
    return result


_raw_key = attrgetter("key")


def _id_bytes(given: UUID | bytes) -> bytes:
    if isinstance(given, UUID):
        return given.bytes
    if isinstance(given, bytes) and len(given) == 16:
        return given
    raise InvalidName(f"id={given!r:.80}: expected a uuid.UUID, or its 16 bytes")


def _path(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', repr(thing))}"
