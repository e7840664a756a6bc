"""What is published around an event: identity, time and bytes.  Frozen; what changes belongs to a delivery."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from uuid import UUID

import msgspec

if sys.version_info >= (3, 14):
    from uuid import uuid7 as _uuid7
else:
    from uuid_utils import uuid7 as _uuid7

from .errors import InvalidName

__all__ = [
    "CAUSATION",
    "CORRELATION",
    "EPOCH",
    "OBJECT",
    "Envelope",
    "checked_headers",
    "micros_of",
    "new_id",
    "new_uuid",
    "split_log",
]

# The CloudEvents "correlation" extension's names: https://github.com/cloudevents/spec/blob/main/cloudevents/extensions
CORRELATION = "correlationid"
CAUSATION = "causationid"

# The format of an envelope that never left the process: its delivery carries the event itself, and the body is empty.
OBJECT = "application/vnd.postbus.object"

# Added to, and not divided down to seconds: a float has too few digits for microseconds in the far future.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_HEADER_VALUE = 8192
_HEADERS = 64
# Between a topic and the number of one of its logs: no name holds it.
_NUMBERED = "#"


class Envelope(msgspec.Struct, frozen=True, gc=False, kw_only=False):
    """What is published around an event.  Never changed afterwards.

    Attributes:
        id_bytes: the event's id as 16 bytes; `id` is the same as a `uuid.UUID` (version 7 unless the caller gave one).
        name: the wire name.
        topic: what it is appended to.
        key: the aggregate's id, or None.
        micros: when it was published, in microseconds since 1970 UTC; `time` is the same as an aware datetime.
        version: the version of the event's class.
        format: the content type of `body`.
        body: the encoded event; empty where `format` is `OBJECT`.
        expires_micros: when it stops being worth delivering, or None; `expires_at` is the same as an aware datetime.
        header_map: user and tracing headers, or None; `headers` is the same, never None.
        partition: which of its topic's logs, counted from 0; None where the topic is one log.
    """

    id_bytes: bytes
    name: str
    topic: str
    key: str | None
    micros: int
    version: int
    format: str
    body: bytes
    expires_micros: int | None = None
    header_map: dict[str, str] | None = None
    partition: int | None = None

    @property
    def id(self) -> UUID:
        """The event's identity, and the key of every deduplication."""
        return UUID(bytes=self.id_bytes)

    @property
    def time(self) -> datetime:
        """When it was published, by the publisher's clock; aware, UTC."""
        return EPOCH + timedelta(microseconds=self.micros)

    @property
    def expires_at(self) -> datetime | None:
        """When it stops being worth delivering; aware, UTC."""
        return None if self.expires_micros is None else EPOCH + timedelta(microseconds=self.expires_micros)

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers, read-only."""
        return _NO_HEADERS if self.header_map is None else MappingProxyType(self.header_map)

    @property
    def log(self) -> str:
        """The log it is appended to, as transports name it: its topic, or `topic#number` for one of several."""
        return self.topic if self.partition is None else f"{self.topic}{_NUMBERED}{self.partition}"

    @property
    def correlation_id(self) -> str | None:
        """The id of the first event of the chain this one belongs to, where known."""
        return self.headers.get(CORRELATION)

    @property
    def causation_id(self) -> str | None:
        """The id of the event whose handling published this one, where known."""
        return self.headers.get(CAUSATION)


# The library's own call, for who seals so often that one more layer is felt; `.bytes` of it is what `new_id` returns.
new_uuid = _uuid7


def new_id() -> bytes:
    """A uuid7 as bytes: growing within a process, and unique after a fork (both libraries reseed in the child)."""
    return _uuid7().bytes


def split_log(log: str) -> tuple[str, int | None]:
    """The topic of a log, and which of the topic's logs it is; what nobody here would write is a topic as it stands."""
    if _NUMBERED not in log:
        return log, None
    topic, _, number = log.rpartition(_NUMBERED)
    return (topic, int(number)) if topic and number.isascii() and number.isdigit() else (log, None)


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return a private copy of `headers`, or None when there are none.

    Raises:
        InvalidName: for a name or value that some transport could not carry.
    """
    if not headers:
        return None
    if not isinstance(headers, Mapping) or len(headers) > _HEADERS:
        raise InvalidName(f"headers are a mapping of at most {_HEADERS} names to text, not {headers!r:.80}")
    for name, value in headers.items():
        if not isinstance(name, str) or not name or len(name) > 200 or not _is_token(name):
            raise InvalidName(f"{name!r:.80} is not a valid header name: expected letters, digits, '-', '_', '.'")
        if not isinstance(value, str) or len(value) > _HEADER_VALUE or not _is_text(value):
            raise InvalidName(
                f"header {name!r} has the value {value!r:.80}: expected text of at most {_HEADER_VALUE} characters, "
                f"without control characters"
            )
    return dict(headers)


def _is_token(name: str) -> bool:
    return name.isascii() and all(c.isalnum() or c in "-_." for c in name)


def _is_text(value: str) -> bool:
    if value.isascii() and value.isprintable():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return not any(c < " " or c == "\x7f" for c in value)


def micros_of(at: datetime) -> int:
    """An aware datetime as `Envelope.micros` has it."""
    return (at - EPOCH) // _MICRO
