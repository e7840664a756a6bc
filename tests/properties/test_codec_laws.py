"""Laws of what travels as bytes: whatever is encoded decodes to its equal, and no bytes do worse than be refused."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NotRequired, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus import CodecError, RawEvent
from postbus.codec import Codec, JsonCodec, MsgpackCodec


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rank(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Address(TypedDict):
    street: str
    floors: NotRequired[list[int]]


@dataclasses.dataclass(frozen=True)
class Line:
    sku: str
    price: Decimal
    sent: datetime | None = None


class Point(msgspec.Struct, frozen=True):
    x: float
    when: time


@attrs.frozen
class Note:
    text: str
    size: timedelta


class Place(pydantic.BaseModel, frozen=True):
    name: str = pydantic.Field(alias="placeName")
    ids: frozenset[UUID]
    inner: Line | None = None


whole_minutes = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# Two days from the ends of time, so that UTC has them too.
aware = st.datetimes(
    datetime.fromisoformat("0001-01-03"), datetime.fromisoformat("9999-12-29"), timezones=whole_minutes
)
finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.integers(-(2**63), 2**64 - 1)
decimals = st.decimals(allow_nan=False, allow_infinity=False)
lines = st.builds(Line, st.text(max_size=9), decimals, st.none() | aware)
addresses = st.fixed_dictionaries({"street": st.text(max_size=9)}, optional={"floors": st.lists(st.integers(0, 9))})

FIELDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "flag": (bool, st.booleans()),
    "count": (int, numbers),
    "ratio": (float, finite),
    "text": (str, st.text()),
    "data": (bytes, st.binary()),
    "at": (datetime, aware),
    "local": (datetime, st.datetimes()),
    "day": (date, st.dates()),
    "hour": (time, st.times()),
    "span": (timedelta, st.timedeltas()),
    "price": (Decimal, decimals),
    "ident": (UUID, st.uuids()),
    "colour": (Colour, st.sampled_from(Colour)),
    "rank": (Rank, st.sampled_from(Rank)),
    "maybe": (str | None, st.none() | st.text()),
    "either": (int | str | None, st.none() | numbers | st.text()),
    "pair": (tuple[int, str], st.tuples(numbers, st.text())),
    "many": (tuple[float, ...], st.lists(finite, max_size=3).map(tuple)),
    "tags": (set[str], st.sets(st.text(), max_size=3)),
    "table": (dict[str, list[int]], st.dictionaries(st.text(), st.lists(numbers, max_size=2), max_size=3)),
    "by_id": (dict[UUID, Decimal], st.dictionaries(st.uuids(), decimals, max_size=2)),
    "by_number": (dict[int, Colour], st.dictionaries(st.integers(-9, 9), st.sampled_from(Colour), max_size=2)),
    "by_day": (dict[date, bytes], st.dictionaries(st.dates(), st.binary(max_size=5), max_size=2)),
    "lines": (list[Line], st.lists(lines, max_size=2)),
    "address": (Address, addresses),
}
# What pydantic does not know, and what msgspec asks us about.
POINT = (Point, st.builds(Point, finite, st.times()))
NOTE = (Note, st.builds(Note, st.text(max_size=9), st.timedeltas()))
PLACES = st.builds(
    Place, placeName=st.text(max_size=9), ids=st.frozensets(st.uuids(), max_size=2), inner=st.none() | lines
)
PLACE = (list[Place], st.lists(PLACES, max_size=2))

OURS = {**FIELDS, "point": POINT, "note": NOTE}
# pydantic takes typing.TypedDict from Python 3.12 on.
MODELS = {name: field for name, field in FIELDS.items() if name != "address"}
DataEvent: Any = dataclasses.make_dataclass("DataEvent", [(n, t) for n, (t, _) in {**OURS, "places": PLACE}.items()])
StructEvent: Any = msgspec.defstruct("StructEvent", [(n, t) for n, (t, _) in OURS.items()])
AttrsEvent: Any = attrs.make_class("AttrsEvent", {n: attrs.field(type=t) for n, (t, _) in OURS.items()})
# Strict, because in bytes a UUID is text; base64, because pydantic's own JSON has no other form for all bytes.
ModelEvent: Any = pydantic.create_model(
    "ModelEvent",
    __config__=pydantic.ConfigDict(strict=True, ser_json_bytes="base64", val_json_bytes="base64"),
    **{name: (kind, ...) for name, (kind, _) in MODELS.items()},
    place=(Place, ...),
)

EVENTS = {
    DataEvent: st.builds(DataEvent, **{n: s for n, (_, s) in {**OURS, "places": PLACE}.items()}),
    StructEvent: st.builds(StructEvent, **{n: s for n, (_, s) in OURS.items()}),
    AttrsEvent: st.builds(AttrsEvent, **{n: s for n, (_, s) in OURS.items()}),
    ModelEvent: st.builds(ModelEvent, **{n: s for n, (_, s) in MODELS.items()}, place=PLACES),
}
CODECS = [MsgpackCodec(), JsonCodec()]
each_codec = pytest.mark.parametrize("codec", CODECS, ids=["msgpack", "json"])


@each_codec
@pytest.mark.parametrize("event_type", EVENTS, ids=["dataclass", "struct", "attrs", "pydantic"])
@given(data=st.data())
def test_what_is_encoded_decodes_to_its_equal(codec: Codec, event_type: Any, data: st.DataObject) -> None:
    event = data.draw(EVENTS[event_type])
    decoded = codec.decode(codec.encode(event), event_type)
    assert decoded == event
    assert type(decoded) is event_type


@each_codec
@pytest.mark.parametrize("event_type", EVENTS, ids=["dataclass", "struct", "attrs", "pydantic"])
@given(data=st.data())
def test_a_raw_reader_sees_plain_data_that_decodes_to_the_event(
    codec: Codec, event_type: Any, data: st.DataObject
) -> None:
    event = data.draw(EVENTS[event_type])
    plain = codec.plain(codec.encode(event))
    assert {type(part) for part in _parts(plain)} <= {type(None), bool, int, float, str, bytes, list, dict}
    if event_type is not ModelEvent:  # a strict model's JSON has base64 of its own kind
        assert RawEvent.received("a.b", plain, None).decode(event_type) == event


scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(st.characters()) | st.binary()
)
anything = st.recursive(
    scalars | st.datetimes(timezones=st.timezones()) | st.timedeltas() | st.decimals() | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=9,
)


@dataclasses.dataclass
class Loose:
    value: Any


@each_codec
@given(value=anything, depth=st.sampled_from([0, 1, 60, 62, 63, 64, 70, 2_000]))
def test_what_cannot_come_back_is_refused_before_it_leaves(codec: Codec, value: Any, depth: int) -> None:
    for _ in range(depth):
        value = [value]
    try:
        body = codec.encode(Loose(value))
    except CodecError:
        return
    plain = codec.plain(body)
    assert codec.decode(body, Loose) is not None
    assert all(math.isfinite(part) for part in _parts(plain) if isinstance(part, float))
    assert _floats(value) == _floats(plain["value"])  # no NaN has become a null


json_like = st.recursive(
    st.none() | st.booleans() | numbers | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=9,
)


@each_codec
@given(payload=json_like)
def test_a_raw_events_payload_comes_back_as_it_was(codec: Codec, payload: object) -> None:
    raw = RawEvent("laws.raw.made", payload)
    assert raw.payload == payload
    assert codec.plain(codec.encode(raw)) == payload


@each_codec
@given(body=st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_codec_error(codec: Codec, body: bytes) -> None:
    _only_codec_errors(codec, body)


@each_codec
@given(data=st.data())
def test_no_damage_to_a_body_raises_anything_but_a_codec_error(codec: Codec, data: st.DataObject) -> None:
    event_type = data.draw(st.sampled_from(list(EVENTS)))
    body = bytearray(codec.encode(data.draw(EVENTS[event_type])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(body) - 1)))
        match data.draw(st.sampled_from(["set", "insert", "delete", "cut"])):
            case "set":
                body[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "insert":
                body[at:at] = data.draw(st.binary(min_size=1, max_size=9))
            case "delete":
                del body[at : at + data.draw(st.integers(1, 9))]
            case _:
                del body[at:]
    _only_codec_errors(codec, bytes(body))


def _only_codec_errors(codec: Codec, body: bytes) -> None:
    for event_type in (*EVENTS, Loose):
        with suppress(CodecError):
            codec.decode(body, event_type)
    with suppress(CodecError):
        codec.plain(body)


def _parts(data: Any) -> Iterator[Any]:
    yield data
    if isinstance(data, dict):
        for key, value in data.items():
            yield from _parts(key)
            yield from _parts(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _parts(value)


def _floats(data: Any) -> list[float]:
    if isinstance(data, dict):
        return [part for value in data.values() for part in _floats(value)]
    if isinstance(data, list):
        return [part for value in data for part in _floats(value)]
    return [data] if isinstance(data, float) else []
