"""Bytes are strict: what could not come back is refused before it leaves, and no body does worse than be refused."""

from __future__ import annotations

import dataclasses
import enum
import math
import pickle
import struct
import traceback
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest

from postbus import CodecError, ConfigError, RawEvent, event
from postbus.codec import Codec, JsonCodec, MsgpackCodec, codec_for, codec_named

MSGPACK, JSON = MsgpackCodec(), JsonCodec()
each_codec = pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])


@dataclasses.dataclass
class Line:
    sku: str
    price: float | None = None


@event("orders.order.placed", key="order_id")
class OrderPlaced(msgspec.Struct):
    order_id: str
    amount: int | None = None
    rate: float = 1.0
    lines: list[Line] = []
    rates: dict[str, float] = {}
    extra: Any = None


@dataclasses.dataclass
class Tree:
    children: list[Tree] = dataclasses.field(default_factory=list)


class Other(enum.Enum):
    A = 1


class Pair(NamedTuple):
    left: int
    right: str


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


# -- out


@each_codec
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda x: OrderPlaced("o", rate=x), "$.rate"),
        (lambda x: OrderPlaced("o", lines=[Line("a"), Line("b", x)]), "$.lines[1].price"),
        (lambda x: OrderPlaced("o", rates={"eur": 1.0, "usd": x}), "$.rates.usd"),
        (lambda x: OrderPlaced("o", extra={"a b": (1, [x])}), "$.extra['a b'][1][0]"),
        (lambda x: OrderPlaced("o", extra={x: 1}), "$.extra["),
        (lambda x: OrderPlaced("o", amount=x), "$.amount"),  # what the annotation says is no proof
    ],
)
def test_a_number_that_is_none_is_refused_naming_event_and_field(
    codec: Codec, number: float, make: Callable[[float], OrderPlaced], place: str
) -> None:
    with pytest.raises(CodecError) as caught:
        codec.encode(make(number))
    assert "event 'orders.order.placed' cannot be encoded" in str(caught.value)
    assert place in str(caught.value)


@each_codec
def test_the_largest_numbers_and_nulls_among_floats_pass(codec: Codec) -> None:
    placed = OrderPlaced("null", None, 1.7976931348623157e308, [Line("nan"), Line("inf", -1e308)], {"nan": 5e-324})
    assert codec.decode(codec.encode(placed), OrderPlaced) == placed


@each_codec
def test_64_levels_pass_and_65_do_not(codec: Codec) -> None:
    fits = OrderPlaced("o", extra=nested(63))  # the event is a level of its own
    assert codec.decode(codec.encode(fits), OrderPlaced) == fits
    for depth in (64, 200, 100_000):
        with pytest.raises(
            CodecError, match=r"'orders.order.placed' cannot be encoded: it nests deeper than 64 levels"
        ):
            codec.encode(OrderPlaced("o", extra=nested(depth)))


@each_codec
def test_many_containers_side_by_side_are_not_deep(codec: Codec) -> None:
    wide = OrderPlaced("o", extra=[{"a": [1]}] * 500)
    assert codec.decode(codec.encode(wide), OrderPlaced) == wide


@each_codec
def test_a_recursive_class_is_bounded_too(codec: Codec) -> None:
    tree = Tree()
    for _ in range(31):
        tree = Tree([tree])
    assert codec.decode(codec.encode(tree), Tree) == tree
    with pytest.raises(CodecError, match="Tree cannot be encoded: it nests deeper"):
        codec.encode(Tree([Tree([tree])]))


@each_codec
def test_what_holds_itself_is_refused(codec: Codec) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CodecError, match="holds itself"):
        codec.encode(OrderPlaced("o", extra=loop))


def test_integers_beyond_64_bits_go_where_the_format_carries_them() -> None:
    huge = OrderPlaced("o", amount=2**70, extra=None)
    assert JSON.decode(JSON.encode(huge), OrderPlaced) == huge
    with pytest.raises(CodecError, match=r"'orders.order.placed' .* at `\$.amount`"):
        MSGPACK.encode(huge)
    with pytest.raises(CodecError, match=r"at `\$.extra\[1\]`"):
        JSON.encode(OrderPlaced("o", extra=[1, 10**5_000]))


@each_codec
@pytest.mark.parametrize(
    ("extra", "place"),
    [
        ("\ud800", r"\$.extra`"),
        ({"a": ["\udfff"]}, r"\$.extra.a\[0\]"),
        ({"\ud800": 1}, r"\$.extra`"),
        ({"a": complex(1)}, r"complex .*\$.extra.a"),
        ([Line, 1], r"\$.extra\[0\]"),
        (Line("\ud800"), r"\$.extra.sku"),
        (attrs.make_class("A", ["x"])(object()), r"object .*\$.extra.x"),
    ],
)
def test_what_has_no_bytes_is_refused_naming_the_field(codec: Codec, extra: object, place: str) -> None:
    with pytest.raises(CodecError, match="orders.order.placed.*" + place):
        codec.encode(OrderPlaced("o", extra=extra))


@event("times.time.told")
@dataclasses.dataclass
class Told:
    at: datetime | None = None
    hour: time | None = None


def test_an_offset_that_json_would_round_is_refused() -> None:
    long_ago = datetime(1900, 1, 1, tzinfo=ZoneInfo("Europe/Amsterdam"))  # +00:19:32 then
    assert MSGPACK.decode(MSGPACK.encode(Told(long_ago)), Told) == Told(long_ago)
    with pytest.raises(CodecError, match=r"'times.time.told'.*convert it to UTC - at `\$.at`"):
        JSON.encode(Told(long_ago))
    for offset in (timedelta(hours=5, minutes=30), timedelta(0), timedelta(minutes=-1)):
        fine = Told(datetime(2026, 1, 1, tzinfo=timezone(offset)), time(1, 2, 3, tzinfo=timezone(offset)))
        for codec in (MSGPACK, JSON):
            assert codec.decode(codec.encode(fine), Told) == fine


@each_codec
def test_a_time_of_day_with_an_odd_offset_is_refused(codec: Codec) -> None:
    with pytest.raises(CodecError, match=r"at `\$.hour`"):
        codec.encode(Told(hour=time(1, 2, 3, tzinfo=timezone(timedelta(minutes=19, seconds=32)))))


def test_a_time_that_has_no_utc_is_refused_by_messagepack() -> None:
    with pytest.raises(CodecError, match=r"at `\$.at`"):
        MSGPACK.encode(Told(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))))


@each_codec
def test_keys_that_json_cannot_carry_are_refused_there(codec: Codec) -> None:
    placed = OrderPlaced("o", extra={(1, 2): 3})
    if codec is JSON:
        with pytest.raises(CodecError, match=r"at `\$.extra`"):
            codec.encode(placed)
    else:
        assert codec.decode(codec.encode(placed), OrderPlaced) == placed


@each_codec
def test_an_annotation_that_leads_nowhere_is_a_codec_error(codec: Codec) -> None:
    lost = dataclasses.make_dataclass("Lost", [("what", "Nowhere")])
    with pytest.raises(CodecError, match="Nowhere"):
        codec.encode(lost(1))
    with pytest.raises(CodecError, match="Nowhere"):
        codec.decode(b"\x80", lost)


# -- in


def _u32(opcode: int, size: int = 0xFFFFFFFF) -> bytes:
    return bytes([opcode]) + struct.pack(">I", size)


HOSTILE = {
    "nothing": b"",
    "another format": b'{"order_id": "o"',
    "a pickle": pickle.dumps(Line("a")),
    "lists without end": b"\x91" * 100_000,
    "maps without end": b"\x81\xa1a" * 100_000,
    "unknown maps without end": b"\x82\xa8order_id\xa1o\xa7unknown" + b"\x81\xa1a" * 100_000,
    "json lists without end": b"[" * 100_000,
    "json maps without end": b'{"a":' * 100_000,
    "unknown json without end": b'{"order_id":"o","unknown":' + b"[" * 100_000,
    "a list of 4 G": _u32(0xDD),
    "a map of 4 G": _u32(0xDF),
    "text of 4 G": _u32(0xDB),
    "bytes of 4 G": _u32(0xC6),
    "an extension of 4 G": _u32(0xC9) + b"\xff",
    "lists of 4 G in lists": _u32(0xDD) * 1_000,
    "a list of 256 M": _u32(0xDD, 0x10000000) + b"\xc0" * 1_000,
    "an unhashable key": b"\x81\x80\x01",
    "unhashable keys in keys": b"\x81\x91\x80\x01",
    "a time out of range": b"\x82\xa8order_id\xa1o\xa5extra\xc7\x0c\xff\0\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
    "a time without length": b"\xc7\x00\xff",
    "an unknown extension": b"\x82\xa8order_id\xa1o\xa5extra\xd4\x05\x00",
    "a byte that is none": b"\xc1",
    "bad utf-8": b"\x81\xa8order_id\xa1\xff",
    "bad utf-8 in json": b'{"order_id":"\xff"}',
    "half a surrogate": b'{"order_id":"\\ud800"}',
    "encoded surrogates": b'{"order_id":"\xed\xa0\x80"}',
    "NaN": b'{"order_id":"o","rate":NaN}',
    "Infinity": b'{"order_id":"o","rate":-Infinity}',
    "a number too large": b'{"order_id":"o","rate":1e999}',
    "a number too long": b'{"order_id":"o","amount":' + b"1" * 5_000 + b"}",
    "a number too long for floats": b'{"order_id":"o","rate":' + b"1" * 5_000 + b"}",
    "something behind": b'{"order_id":"o"} {}',
    "something behind it": b"\x81\xa8order_id\xa1o\x00",
    "the wrong type": b'{"order_id":5}',
    "a wrong type inside": b'{"order_id":"o","lines":[{"sku":"a","price":"x"}]}',
    "a field missing": b"{}",
    "a field missing too": b"\x80",
    "no object": b"[]",
    "a float32 NaN": b"\x82\xa8order_id\xa1o\xa4rate\xca\x7f\xc0\x00\x00",
    "a float64 NaN": b"\x82\xa8order_id\xa1o\xa4rate\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
    "a NaN inside": b"\x82\xa8order_id\xa1o\xa5rates\x81\xa1a\xcb\xff\xf0\x00\x00\x00\x00\x00\x00",
    "a NaN for a key": b'{"order_id":"o","by":{"nan":1}}',
    "a deep extra": b"\x82\xa8order_id\xa1o\xa5extra" + b"\x91" * 64 + b"\xc0",
    "a deep json extra": b'{"order_id":"o","extra":' + b"[" * 64 + b"]" * 64 + b"}",
}


@event("hostile.body.opened")
@dataclasses.dataclass
class Opened:
    order_id: str
    amount: int | None = None
    rate: float = 1.0
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    lines: list[Line] = dataclasses.field(default_factory=list)
    by: dict[float, int] = dataclasses.field(default_factory=dict)
    extra: Any = None
    at: datetime | None = None


@each_codec
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_is_refused_cheaply(codec: Codec, body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=r"^event 'hostile.body.opened' cannot be decoded: ") as caught:
            codec.decode(body, Opened)
        assert len(str(caught.value)) < 1_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@each_codec
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_body_gives_a_raw_reader_plain_data_or_a_codec_error(codec: Codec, body: bytes) -> None:
    with suppress(CodecError):
        data = codec.plain(body)
        assert codec.plain(codec.encode(data)) == data


@pytest.mark.parametrize("key", ["__class__", "$type", "py/object", "__reduce__", "type", "_type"])
def test_a_name_on_the_wire_is_never_looked_up(key: str) -> None:
    payload = {key: "os.system", "args": ["true"], "order_id": "o"}
    for codec in (MSGPACK, JSON):
        body = codec.encode(payload)
        assert codec.plain(body) == payload
        assert codec.decode(body, OrderPlaced) == OrderPlaced("o")


@each_codec
def test_a_wrong_field_is_named(codec: Codec) -> None:
    body = codec.encode({"order_id": "o", "lines": [{"sku": "a"}, {"sku": 5}]})
    with pytest.raises(CodecError, match=r"'orders.order.placed' cannot be decoded: .*at `\$.lines\[1\].sku`"):
        codec.decode(body, OrderPlaced)


@each_codec
def test_unknown_fields_are_left_out_and_missing_ones_take_their_defaults(codec: Codec) -> None:
    assert codec.decode(codec.encode({"order_id": "o", "newer": [1]}), OrderPlaced) == OrderPlaced("o")


@each_codec
def test_an_error_in_a_class_of_the_user_is_a_codec_error(codec: Codec) -> None:
    @dataclasses.dataclass
    class Strange:
        number: int

        def __post_init__(self) -> None:
            raise KeyError(1 // self.number)

    with pytest.raises(CodecError, match=r"Strange.* cannot be decoded"):
        codec.decode(codec.encode({"number": 1}), Strange)
    with pytest.raises(CodecError, match=r"division or modulo by zero|division by zero"):
        codec.decode(codec.encode({"number": 0}), Strange)


@each_codec
def test_plain_data_is_the_same_whichever_way_a_time_travelled(codec: Codec) -> None:
    told = Told(datetime(2026, 5, 1, 12, tzinfo=UTC))
    assert codec.plain(codec.encode(told)) == {"at": "2026-05-01T12:00:00Z", "hour": None}


@each_codec
def test_tuples_with_names_travel(codec: Codec) -> None:
    assert codec.decode(codec.encode(Pair(1, "a")), Pair) == Pair(1, "a")


def test_a_raw_event_is_not_a_class_to_decode_into() -> None:
    with pytest.raises(CodecError, match="plain"):
        MSGPACK.decode(b"\xc0", RawEvent)


# -- pydantic


class Card(pydantic.BaseModel):
    number: str = pydantic.Field(pattern=r"^\d+$")
    owner: str = pydantic.Field(default="", serialization_alias="o", validation_alias="Owner")


@event("shop.card.used")
class CardUsed(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    card: Card
    site: pydantic.AnyUrl | None = None
    data: bytes = b""
    value: Any = None
    ratio: float = 1.0

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> float:
        return self.ratio * 2


@dataclasses.dataclass
class Wallet:
    cards: list[Card]
    used: CardUsed | None = None


@each_codec
def test_models_travel_under_their_own_names_whatever_their_aliases(codec: Codec) -> None:
    used = CardUsed(card=Card(number="1", Owner="me"), site=pydantic.AnyUrl("https://a.example/x"))  # type: ignore[call-arg]
    assert codec.decode(codec.encode(used), CardUsed) == used
    assert codec.plain(codec.encode(used))["card"] == {"number": "1", "owner": "me"}
    wallet = Wallet([used.card], used)
    assert codec.decode(codec.encode(wallet), Wallet) == wallet


@each_codec
def test_a_models_errors_do_not_quote_the_payload(codec: Codec) -> None:
    for body, kind in (
        (codec.encode({"card": {"number": "4111-secret"}}), CardUsed),
        (codec.encode({"cards": [{"number": "4111-secret"}]}), Wallet),
    ):
        with pytest.raises(CodecError, match="number") as caught:
            codec.decode(body, kind)
        assert "secret" not in "".join(traceback.format_exception(caught.value))


@each_codec
def test_a_model_is_held_to_the_same_limits(codec: Codec) -> None:
    card = Card(number="1")
    with pytest.raises(CodecError, match=r"shop.card.used.*\$.ratio"):
        codec.encode(CardUsed(card=card, ratio=math.nan))
    with pytest.raises(CodecError, match=r"\$.value\[0\]"):
        codec.encode(CardUsed(card=card, value=[math.inf], site=pydantic.AnyUrl("https://a.example")))
    with pytest.raises(CodecError, match="deeper than 64"):
        codec.encode(CardUsed(card=card, value=nested(64)))
    with pytest.raises(CodecError, match=r"\$.used.ratio"):
        codec.encode(Wallet([], CardUsed(card=card, ratio=-math.inf)))
    with pytest.raises(CodecError, match="deeper than 64"):
        codec.decode(codec.encode({"card": {"number": "1"}, "value": nested(62)}).replace(*_one_more(codec)), CardUsed)


def _one_more(codec: Codec) -> tuple[bytes, bytes]:
    return (b"[[[[1]", b"[[[[[[1]]]") if codec is JSON else (b"\x91\x91\x91\x91\x01", b"\x91\x91\x91\x91\x91\x91\x01")


def test_messagepack_carries_any_bytes_of_a_model_and_json_those_it_has_text_for() -> None:
    used = CardUsed(card=Card(number="1"), data=b"\xff\x00")
    assert MSGPACK.decode(MSGPACK.encode(used), CardUsed) == used
    with pytest.raises(CodecError, match=r"shop.card.used"):
        JSON.encode(used)


def test_a_strict_model_reads_what_has_no_form_but_text() -> None:
    class Strict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True)
        ident: UUID
        price: Decimal
        tags: frozenset[str]
        kind: Other

    event = Strict(ident=UUID(int=1), price=Decimal("1.10"), tags=frozenset({"a"}), kind=Other.A)
    for codec in (MSGPACK, JSON):
        assert codec.decode(codec.encode(event), Strict) == event


def test_a_plain_event_and_a_model_read_each_other() -> None:
    class Model(pydantic.BaseModel):
        at: datetime
        data: bytes
        ident: UUID

    class Plain(msgspec.Struct):
        at: datetime
        data: bytes
        ident: UUID

    at = datetime(2026, 5, 1, tzinfo=UTC)
    plain, model = Plain(at, b"\xff", UUID(int=1)), Model(at=at, data=b"\xff", ident=UUID(int=1))
    assert MSGPACK.decode(MSGPACK.encode(plain), Model) == model
    assert MSGPACK.decode(MSGPACK.encode(model), Plain) == plain


# -- which


def test_a_codec_is_known_by_name() -> None:
    assert codec_named("msgpack").content_type == "application/msgpack"
    assert codec_named("json").content_type == "application/json"
    for name in ("pickle", "", None):
        with pytest.raises(ConfigError, match="'msgpack', 'json'"):
            codec_named(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/vnd.shop+json", "application/json"),
        ("application/x-msgpack", "application/msgpack"),
        ("application/octet-stream", None),
        ("", None),
    ],
)
def test_a_codec_is_known_by_content_type(content_type: str, expected: str | None) -> None:
    codec = codec_for(content_type)
    assert (codec and codec.content_type) == expected
