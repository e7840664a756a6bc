"""Marks, names, topics, keys, patterns, and events without a class."""

from __future__ import annotations

import dataclasses
import enum
import math
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus import CodecError, ConfigError, InvalidName, RawEvent, UnknownEvent, event
from postbus.event import Pattern, is_pattern, key_text, mark_if_any, mark_of, topic_of, valid_name

# -- names


@pytest.mark.parametrize("name", ["a", "orders.order.placed", "A-1_b:c", "0.9", "_", ":", "a" * 200])
def test_a_good_name_is_returned(name: str) -> None:
    assert valid_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a b",
            "../x",
            "a;drop table",
            "a'b",
            "{x}",
            "a\r\nPUB",
            "a\n",
            "*",
            "a.>",
        ),
        *("\N{CYRILLIC SMALL LETTER A}", "ä", "a\0", "a/b", "a" * 201, "a" * 10_000, "\ud800", None, 5, b"a", ["a"]),
    ],
)
def test_a_name_that_some_transport_could_not_carry_is_refused(name: Any) -> None:
    with pytest.raises(InvalidName, match=r"not a valid topic: expected .*'orders.order.placed'") as caught:
        valid_name(name, "topic")
    assert len(str(caught.value)) < 300


def test_the_default_topic_is_the_name_without_its_last_segment() -> None:
    assert topic_of("orders.order.placed") == "orders.order"
    assert topic_of("started") == "started"


# -- keys


class Size(enum.Enum):
    SMALL = "s"
    NONE = None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("o-1", "o-1"),
        ("a" * 200, "a" * 200),
        ("ü" * 100, "ü" * 100),
        (" \n ", " \n "),
        (0, "0"),
        (-5, "-5"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Size.SMALL, "s"),
        (Size.NONE, None),
    ],
)
def test_an_id_becomes_key_text(value: object, text: str | None) -> None:
    assert key_text(value) == text


@pytest.mark.parametrize(
    "value",
    ["", "a" * 201, "ü" * 101, "\ud800", "a\0b", "ü\0", True, 1.0, b"a", Decimal(1), ("a",), object(), 10**300],
)
def test_what_is_no_stable_identity_is_no_key(value: object) -> None:
    with pytest.raises(InvalidName, match="key") as caught:
        key_text(value)
    assert len(str(caught.value)) < 300


# -- marks


def test_each_kind_of_class_can_be_marked_and_says_its_key() -> None:
    @event("shop.item.added", key="ident")
    @dataclasses.dataclass(frozen=True, slots=True)
    class Data:
        ident: str

    @event("shop.item.moved", key="ident", topic="moves", version=2)
    class Struct(msgspec.Struct):
        ident: str

    @event("shop.item.sold", key=lambda sold: sold.ident.upper())
    @attrs.frozen
    class Attrs:
        ident: str

    @event("shop.item.lost", key="ident")
    class Model(pydantic.BaseModel):
        ident: str

    for kind in (Data, Struct, Attrs, Model):
        mark = mark_of(kind)
        assert mark.key is not None
        assert mark.key(kind(ident="i")).lower() == "i"  # type: ignore[attr-defined, call-arg]
    assert (mark_of(Struct).topic, mark_of(Struct).version) == ("moves", 2)
    assert (mark_of(Data).topic, mark_of(Data).version) == ("shop.item", 1)


def test_a_key_may_be_a_property() -> None:
    @event("shop.item.added", key="both")
    @dataclasses.dataclass
    class Added:
        left: str

        @property
        def both(self) -> str:
            return self.left * 2

    key = mark_of(Added).key
    assert key is not None
    assert key(Added("a")) == "aa"


def test_a_mark_is_not_inherited() -> None:
    @event("shop.item.added")
    class Base: ...

    class Sub(Base): ...

    class Plain: ...

    with pytest.raises(UnknownEvent, match=r"Sub has no wire name .*inherits from 'shop.item.added'.*@event\("):
        mark_of(Sub)
    with pytest.raises(UnknownEvent, match=r"Plain has no wire name: mark it with @event\("):
        mark_of(Plain)
    assert mark_if_any(Sub) is mark_if_any(5) is None


@dataclasses.dataclass
class Some:
    ident: str


BAD_MARKS: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "name": (Some, {"name": "a b"}, InvalidName, "event name"),
    "topic": (Some, {"topic": "*"}, InvalidName, "topic"),
    "no topic": (Some, {"topic": ""}, InvalidName, "topic"),
    "version 0": (Some, {"version": 0}, ConfigError, "from 1"),
    "version true": (Some, {"version": True}, ConfigError, "from 1"),
    "version text": (Some, {"version": "2"}, ConfigError, "from 1"),
    "unknown key": (Some, {"key": "order_id"}, ConfigError, "Some has only ident"),
    "dotted key": (Some, {"key": "ident.x"}, ConfigError, "attribute name or a callable"),
    "no key": (Some, {"key": 5}, ConfigError, "attribute name or a callable"),
    "no class": (lambda: None, {}, ConfigError, "marks classes"),
}


@pytest.mark.parametrize(("target", "options", "error", "says"), BAD_MARKS.values(), ids=BAD_MARKS)
def test_a_mark_that_would_fail_later_fails_now(
    target: Any, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        event(**{"name": "a.b", **options})(target)


# -- patterns


@pytest.mark.parametrize(
    ("pattern", "takes", "leaves"),
    [
        (">", ["a", "a.b"], []),
        ("orders.*", ["orders.placed"], ["orders", "orders.order.placed", "xorders.placed", "orders."]),
        ("orders.>", ["orders.placed", "orders.order.placed"], ["orders", "ordersx.placed"]),
        ("*.order.*", ["a.order.b"], ["a.order", "a.b.order.c", "order.a"]),
        ("a-b.*", ["a-b.c"], ["aXb.c"]),
        ("a.b", ["a.b"], ["aXb", "a.b.c"]),
    ],
)
def test_a_pattern_takes_whole_segments(pattern: str, takes: list[str], leaves: list[str]) -> None:
    assert all(map(Pattern(pattern).matches, takes))
    assert not any(map(Pattern(pattern).matches, leaves))
    assert is_pattern(pattern) is ("*" in pattern or ">" in pattern)


@pytest.mark.parametrize("text", ["a*", ">.a", "a.>.b", "**", "a..*", "", "a b.*", "-a.*"])
def test_a_pattern_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        Pattern(text)


# -- raw events


NOBODY = UUID(int=0)


@dataclasses.dataclass(frozen=True)
class Payload:
    ident: UUID = NOBODY
    at: datetime | None = None
    price: Decimal = Decimal(0)
    data: bytes = b""


def test_a_payload_becomes_plain_data_at_once() -> None:
    payload = Payload(UUID(int=1), datetime(2026, 5, 1, tzinfo=UTC), Decimal("1.10"), b"\xff")
    raw = RawEvent("shop.item.added", payload, key=7)
    assert raw.payload == {"ident": str(UUID(int=1)), "at": "2026-05-01T00:00:00Z", "price": "1.10", "data": b"\xff"}
    assert raw.key == "7"
    assert raw.decode(Payload) == payload


def test_a_payload_does_not_follow_what_it_was_made_of() -> None:
    given: dict[str, Any] = {"lines": [1]}
    raw = RawEvent("a.b", given)
    given["lines"].append(2)
    assert raw.payload == {"lines": [1]}
    assert RawEvent("a.b", ((1, {2}), b"a")).payload == [[1, [2]], b"a"]


def test_a_models_payload_is_its_fields() -> None:
    class Inner(pydantic.BaseModel):
        ident: UUID

    class Model(pydantic.BaseModel):
        inner: Inner
        secret: str

    model = Model(inner=Inner(ident=UUID(int=1)), secret="hunter2")
    raw = RawEvent("a.b", {"model": model})
    assert raw.payload == {"model": {"inner": {"ident": str(UUID(int=1))}, "secret": "hunter2"}}
    assert RawEvent("a.b", model).decode(Model) == model
    with pytest.raises(CodecError, match=r"'a.b' does not decode into .*Model: .*inner") as caught:
        RawEvent("a.b", {"secret": "hunter2"}).decode(Model)
    assert "hunter2" not in str(caught.value)


def _deep(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = {"a": value}
    return value


UNFIT: dict[str, object] = {
    "object": object(),
    "complex": {"a": complex(1)},
    "NaN": {"a": [math.nan]},
    "infinity": math.inf,
    "surrogate": "\ud800",
    "surrogate key": {"\ud800": 1},
    "65 bits": 2**64,
    "negative 65 bits": -(2**63) - 1,
    "65 levels": _deep(65),
    "without end": _deep(100_000),
    "function": print,
    "odd offset": {"a": time(1, 2, tzinfo=timezone(timedelta(minutes=19, seconds=32)))},
}


@pytest.mark.parametrize("payload", UNFIT.values(), ids=UNFIT)
def test_a_payload_that_cannot_be_encoded_fails_when_it_is_made(payload: object) -> None:
    with pytest.raises(CodecError, match=r"the payload of event 'a.b' cannot be encoded"):
        RawEvent("a.b", payload)


def test_64_levels_are_a_payload() -> None:
    assert RawEvent("a.b", _deep(64)).payload == _deep(64)


def test_an_empty_payload_gives_the_class_with_its_defaults() -> None:
    assert RawEvent("a.b").decode(Payload) == Payload()
    assert RawEvent("a.b").decode(dict) == {}
    with pytest.raises(CodecError, match=r"'a.b' does not decode into Some: .*ident"):
        RawEvent("a.b").decode(Some)


def test_a_payload_that_does_not_fit_names_event_and_field() -> None:
    with pytest.raises(CodecError, match=r"'a.b' does not decode into Payload: .*\$.price"):
        RawEvent("a.b", {"price": "much"}).decode(Payload)


def test_text_of_foreign_producers_fits_numbers() -> None:
    class Count(msgspec.Struct):
        number: int

    assert RawEvent("a.b", {"number": "12"}).decode(Count) == Count(12)


def test_raw_events_are_equal_by_what_they_hold() -> None:
    assert RawEvent("a.b", [1], key="k") == RawEvent("a.b", [1], key="k")
    assert RawEvent("a.b", [1]) != RawEvent("a.c", [1])
    assert RawEvent("a.b", [1]) != RawEvent("a.b", [1], key="k")
    assert RawEvent("a.b", [1]) != [1]
    assert repr(RawEvent("a.b", [1], key="k")) == "RawEvent('a.b', [1], key='k')"
    with pytest.raises(TypeError, match="unhashable"):
        hash(RawEvent("a.b"))


@pytest.mark.parametrize(("name", "key"), [("a b", None), ("a.b", ""), ("a.b", 1.5)])
def test_a_raw_event_has_a_valid_name_and_key(name: str, key: object) -> None:
    with pytest.raises(InvalidName):
        RawEvent(name, key=key)


@given(text=st.text())
def test_every_text_is_a_key_as_it_is_or_refused(text: str) -> None:
    fits = 0 < len(text.encode()) <= 200 and "\0" not in text
    try:
        assert key_text(text) == text
        assert fits
    except InvalidName:
        assert not fits
