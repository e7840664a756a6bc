"""Seal and open: names, keys, sizes, versions, formats, hooks and signatures."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from postbus import CodecError, ConfigError, InvalidName, RawEvent, TooLarge, UnknownEvent, event
from postbus.catalog import Catalog
from postbus.codec import JsonCodec, MsgpackCodec
from postbus.envelope import OBJECT, Envelope, new_id
from postbus.signing import KEY_HEADER, SIGNATURE_HEADER, Signing

NOW = 1_780_000_000_000_000
MSGPACK, JSON = MsgpackCodec(), JsonCodec()
each_codec = pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])


@event("orders.order.placed", key="order_id", version=3)
@dataclasses.dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int
    currency: str = "EUR"


@event("orders.order.shipped", topic="shipping")
class OrderShipped(msgspec.Struct):
    order_id: str = "none"


PLACED = OrderPlaced("o-1", 4200)


def altered(envelope: Envelope, **changes: Any) -> Envelope:
    return msgspec.structs.replace(envelope, **changes)


# -- what is known


def test_a_class_is_known_once() -> None:
    catalog = Catalog(MSGPACK)
    entry = catalog.add(OrderPlaced)
    assert catalog.add(OrderPlaced) is catalog.entry_of(OrderPlaced) is entry
    assert (entry.name, entry.topic, entry.version) == ("orders.order.placed", "orders.order", 3)
    catalog.add(OrderShipped)
    assert catalog.types() == {"orders.order.placed": OrderPlaced, "orders.order.shipped": OrderShipped}


def test_two_classes_of_one_name_are_a_config_error_naming_both() -> None:
    @event("orders.order.placed")
    class Impostor: ...

    catalog = Catalog(MSGPACK)
    catalog.add(OrderPlaced)
    with pytest.raises(ConfigError, match=r"two classes are named 'orders.order.placed': .*OrderPlaced and .*Impostor"):
        catalog.add(Impostor)
    assert Catalog(MSGPACK).add(Impostor).event_type is Impostor  # another bus, another catalog
    assert catalog.types() == {"orders.order.placed": OrderPlaced}


def test_what_is_not_marked_is_unknown() -> None:
    class Sub(OrderPlaced): ...

    catalog = Catalog(MSGPACK)
    for unmarked in (Sub("o", 1), {"order_id": "o"}, "orders.order.placed", None, OrderPlaced):
        with pytest.raises(UnknownEvent, match=r"has no wire name"):
            catalog.seal(unmarked, micros=NOW)


def test_many_threads_add_one_entry() -> None:
    catalog = Catalog(MSGPACK)
    barrier = threading.Barrier(8)
    entries: list[object] = []

    def add() -> None:
        barrier.wait()
        entries.append(catalog.entry_of(OrderPlaced))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries) == 8
    assert {id(entry) for entry in entries} == {id(catalog.entry_of(OrderPlaced))}


# -- seal and open


@each_codec
def test_what_is_sealed_opens_as_its_equal(codec: Any) -> None:
    catalog = Catalog(codec)
    sealed = catalog.seal(PLACED, micros=NOW, expires_micros=NOW + 1, headers={"a": "b"})
    assert (sealed.name, sealed.topic, sealed.key) == ("orders.order.placed", "orders.order", "o-1")
    assert (sealed.micros, sealed.expires_micros, sealed.version) == (NOW, NOW + 1, 3)
    assert (sealed.format, sealed.header_map) == (codec.content_type, {"a": "b"})
    assert sealed.id.version == 7
    assert catalog.open(sealed, OrderPlaced) == PLACED
    raw = RawEvent("orders.order.placed", {"order_id": "o-1", "amount": 4200, "currency": "EUR"}, key="o-1")
    assert catalog.open(sealed, None) == catalog.open(sealed, RawEvent) == raw


def test_a_body_is_read_by_its_own_content_type() -> None:
    reader = Catalog(MSGPACK)
    sealed = Catalog(JSON).seal(PLACED, micros=NOW)
    assert reader.open(sealed, OrderPlaced) == PLACED
    assert reader.open(altered(sealed, format="Application/JSON; charset=utf-8"), OrderPlaced) == PLACED
    for unknown in ("application/x-pickle", "", OBJECT):
        with pytest.raises(CodecError, match=r"'orders.order.placed' has the format .*application/msgpack"):
            reader.open(altered(sealed, format=unknown), OrderPlaced)


def test_a_codec_of_the_users_own_reads_what_it_wrote() -> None:
    class Upper:
        content_type = "application/x-upper"

        def encode(self, event: Any) -> bytes:
            return JSON.encode(event).replace(b"o-1", b"O-1")

        def decode(self, body: bytes, event_type: type[Any]) -> Any:
            return JSON.decode(body, event_type)

        def plain(self, body: bytes) -> Any:
            return JSON.plain(body)

    catalog = Catalog(Upper())
    sealed = catalog.seal(PLACED, micros=NOW)
    assert sealed.format == "application/x-upper"
    assert catalog.open(sealed, OrderPlaced) == OrderPlaced("O-1", 4200)
    assert catalog.open(Catalog(MSGPACK).seal(PLACED, micros=NOW), OrderPlaced) == PLACED


def test_an_id_may_be_given() -> None:
    catalog = Catalog(MSGPACK)
    assert catalog.seal(PLACED, micros=NOW, id=UUID(int=5)).id == UUID(int=5)
    assert catalog.seal(PLACED, micros=NOW, id=UUID(int=5).bytes).id == UUID(int=5)
    for bad in ("5", b"5", 5):
        with pytest.raises(InvalidName, match=r"expected a uuid.UUID"):
            catalog.seal(PLACED, micros=NOW, id=bad)  # type: ignore[arg-type]


def test_the_key_given_wins_over_the_class() -> None:
    catalog = Catalog(MSGPACK)
    assert catalog.seal(PLACED, micros=NOW, key="other").key == "other"
    assert catalog.seal(OrderShipped(), micros=NOW).key is None
    assert catalog.seal(RawEvent("a.b", key="k"), micros=NOW).key == "k"
    assert catalog.seal(RawEvent("a.b", key="k"), micros=NOW, key=5).key == "5"
    with pytest.raises(InvalidName) as caught:
        catalog.seal(OrderPlaced("", 1), micros=NOW)
    assert caught.value.__notes__ == ["the key of event 'orders.order.placed'"]


def test_headers_are_checked() -> None:
    with pytest.raises(InvalidName, match="header"):
        Catalog(MSGPACK).seal(PLACED, micros=NOW, headers={"a b": "c"})


def test_a_raw_event_goes_where_its_class_would() -> None:
    catalog = Catalog(MSGPACK)
    stranger = catalog.seal(RawEvent("orders.order.shipped", {"order_id": "o"}), micros=NOW)
    assert (stranger.topic, stranger.version) == ("orders.order", 1)
    catalog.add(OrderShipped)
    known = catalog.seal(RawEvent("orders.order.shipped", {"order_id": "o"}), micros=NOW)
    assert known.topic == "shipping"
    assert catalog.open(known, OrderShipped) == OrderShipped("o")
    catalog.add(OrderPlaced)
    assert catalog.seal(RawEvent("orders.order.placed"), micros=NOW).version == 3


@each_codec
@pytest.mark.parametrize("body", [None, b""])
def test_an_empty_payload_opens_as_the_defaults(codec: Any, body: bytes | None) -> None:
    catalog = Catalog(codec)
    sealed = catalog.seal(RawEvent("orders.order.shipped"), micros=NOW)
    sealed = sealed if body is None else altered(sealed, body=body)
    assert catalog.open(sealed, OrderShipped) == OrderShipped()
    assert catalog.open(sealed, None) == RawEvent("orders.order.shipped")
    with pytest.raises(CodecError, match=r"orders.order.shipped"):
        catalog.open(sealed, OrderPlaced)


def test_a_class_asked_for_by_annotation_reads_events_of_other_names() -> None:
    class View(pydantic.BaseModel):
        order_id: str

    catalog = Catalog(MSGPACK)
    sealed = catalog.seal(PLACED, micros=NOW)
    assert catalog.open(sealed, View) == View(order_id="o-1")
    assert catalog.open(sealed, OrderShipped) == OrderShipped("o-1")


@each_codec
def test_what_does_not_decode_names_event_and_field(codec: Any) -> None:
    catalog = Catalog(codec)
    sealed = catalog.seal(RawEvent("orders.order.placed", {"order_id": "o", "amount": "x"}), micros=NOW)
    with pytest.raises(CodecError, match=r"'orders.order.placed' cannot be decoded: .*\$.amount"):
        catalog.open(altered(sealed, version=3), OrderPlaced)
    with pytest.raises(CodecError, match=r"'orders.order.placed': the payload cannot be decoded"):
        catalog.open(altered(sealed, body=b"\xc1"), None)


# -- sizes


def test_a_body_over_the_limit_is_refused_with_its_size() -> None:
    size = len(MSGPACK.encode(PLACED))
    assert Catalog(MSGPACK, max_size=size).seal(PLACED, micros=NOW)
    with pytest.raises(TooLarge, match=rf"'orders.order.placed' is {size} bytes, over max_size={size - 1}:"):
        Catalog(MSGPACK, max_size=size - 1).seal(PLACED, micros=NOW)


def test_an_oversize_body_is_refused_before_it_is_read() -> None:
    class Unread:
        def seal(self, envelope: Envelope) -> Envelope:
            raise AssertionError

        def open(self, envelope: Envelope) -> Envelope:
            raise AssertionError

    sealed = altered(Catalog(MSGPACK).seal(PLACED, micros=NOW), body=b"\x91" * 2_000_000)
    for into in (OrderPlaced, None):
        with pytest.raises(CodecError, match=r"'orders.order.placed' is 2,000,000 bytes, over max_size=1,048,576"):
            Catalog(MSGPACK, hooks=[Unread()]).open(sealed, into)


def test_the_limit_holds_for_what_hooks_make_of_a_body() -> None:
    class Padding:
        def seal(self, envelope: Envelope) -> Envelope:
            return altered(envelope, body=envelope.body + b" " * 100)

        open = seal

    sealed = Catalog(JSON).seal(PLACED, micros=NOW)
    with pytest.raises(TooLarge):
        Catalog(JSON, max_size=100, hooks=[Padding()]).seal(PLACED, micros=NOW)
    with pytest.raises(CodecError, match="over max_size"):
        Catalog(JSON, max_size=100, hooks=[Padding()]).open(sealed, OrderPlaced)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "1"])
def test_a_limit_that_is_none_is_a_config_error(size: Any) -> None:
    with pytest.raises(ConfigError, match="max_size"):
        Catalog(MSGPACK, max_size=size)


# -- objects


def test_where_objects_are_passed_nothing_is_encoded() -> None:
    catalog = Catalog(MSGPACK, objects=True, max_size=1, hooks=[Signing({"k": "s"})])
    sealed = catalog.seal(OrderPlaced("o-1", complex(1)), micros=NOW)  # type: ignore[arg-type]
    assert (sealed.format, sealed.body, sealed.header_map, sealed.key) == (OBJECT, b"", None, "o-1")


def test_an_object_gets_its_bytes_when_it_must_be_shown() -> None:
    catalog = Catalog(JSON, objects=True, max_size=1)
    passed = catalog.seal(PLACED, micros=NOW, headers={"a": "b"}, expires_micros=NOW)
    shown = catalog.sealed(passed, PLACED)
    assert shown == altered(passed, format="application/json", body=JSON.encode(PLACED))
    assert catalog.sealed(shown, None) is shown
    with pytest.raises(CodecError, match=r"orders.order.placed"):
        catalog.sealed(passed, OrderPlaced("o", complex(1)))  # type: ignore[arg-type]


# -- versions


def add_currency(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "currency": "USD"}


def rename_total(data: dict[str, Any]) -> dict[str, Any]:
    return {"amount": data["total"], **data}


@each_codec
def test_older_versions_pass_through_each_step(codec: Any) -> None:
    catalog = Catalog(codec)
    catalog.upcast("orders.order.placed", 2, add_currency)
    catalog.upcast("orders.order.placed", 1, rename_total)
    first = catalog.seal(RawEvent("orders.order.placed", {"order_id": "o", "total": 5}), micros=NOW)
    assert first.version == 1
    assert catalog.open(first, OrderPlaced) == OrderPlaced("o", 5, "USD")
    second = altered(
        catalog.seal(RawEvent("orders.order.placed", {"order_id": "o", "amount": 6}), micros=NOW), version=2
    )
    assert catalog.open(second, OrderPlaced) == OrderPlaced("o", 6, "USD")
    assert catalog.open(catalog.seal(PLACED, micros=NOW), OrderPlaced) == PLACED
    assert catalog.open(first, None).payload == {"order_id": "o", "total": 5}


def test_a_version_without_an_upcaster_is_read_as_it_is() -> None:
    catalog = Catalog(MSGPACK)
    old = altered(catalog.seal(PLACED, micros=NOW), version=1)
    assert catalog.open(old, OrderPlaced) == PLACED
    catalog.upcast("orders.order.placed", 2, add_currency)
    assert catalog.open(old, OrderPlaced) == OrderPlaced("o-1", 4200, "USD")
    assert catalog.open(altered(old, version=-(10**18)), OrderPlaced).currency == "USD"


def test_a_newer_version_is_for_a_newer_program() -> None:
    catalog = Catalog(MSGPACK)
    newer = altered(catalog.seal(PLACED, micros=NOW), version=4)
    with pytest.raises(UnknownEvent, match=r"'orders.order.placed' is of version 4, and this program knows up to 3"):
        catalog.open(newer, OrderPlaced)
    with pytest.raises(UnknownEvent):
        Catalog(MSGPACK).open(newer, OrderPlaced)  # the class was never added
    assert catalog.open(newer, None).payload["amount"] == 4200


def test_one_step_has_one_upcaster() -> None:
    catalog = Catalog(MSGPACK)
    catalog.upcast("orders.order.placed", 1, add_currency)
    catalog.upcast("orders.order.placed", 1, add_currency)
    with pytest.raises(ConfigError, match=r"version 1 of 'orders.order.placed' .*add_currency and .*rename_total"):
        catalog.upcast("orders.order.placed", 1, rename_total)
    for version in (0, True, "1"):
        with pytest.raises(ConfigError, match="whole number from 1"):
            catalog.upcast("orders.order.placed", version, add_currency)  # type: ignore[arg-type]
    with pytest.raises(InvalidName):
        catalog.upcast("a b", 1, add_currency)


UNFIT: dict[str, tuple[Callable[[Any], Any], object, str]] = {
    "an upcaster that raises": (
        rename_total,
        {"order_id": "o"},
        "its upcaster .*rename_total raised KeyError: 'total'",
    ),
    "an upcaster that returns nothing": (lambda _: None, {}, "returned NoneType instead of a dict"),
    "an upcaster that returns what has no bytes": (lambda _: {"amount": 1j}, {}, "complex"),
    "a payload that is no mapping": (add_currency, [1], "no mapping"),
}


@pytest.mark.parametrize(("fn", "payload", "says"), UNFIT.values(), ids=UNFIT)
def test_an_upcaster_that_fails_is_that_events_fault(fn: Any, payload: object, says: str) -> None:
    catalog = Catalog(MSGPACK)
    catalog.upcast("orders.order.placed", 1, fn)
    with pytest.raises(CodecError, match=f"'orders.order.placed'.*{says}"):
        catalog.open(catalog.seal(RawEvent("orders.order.placed", payload), micros=NOW), OrderPlaced)


# -- hooks and signatures


def test_hooks_open_in_reverse() -> None:
    class Wrap:
        def __init__(self, mark: bytes) -> None:
            self.mark = mark

        def seal(self, envelope: Envelope) -> Envelope:
            return altered(envelope, body=self.mark + envelope.body)

        def open(self, envelope: Envelope) -> Envelope:
            assert envelope.body.startswith(self.mark)
            return altered(envelope, body=envelope.body.removeprefix(self.mark))

    catalog = Catalog(JSON, hooks=[Wrap(b"a"), Wrap(b"b")])
    sealed = catalog.seal(PLACED, micros=NOW)
    assert sealed.body.startswith(b'ba{"order_id"')
    assert catalog.open(sealed, OrderPlaced) == PLACED


class Clock:
    now = NOW / 1e6

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def signed(keys: dict[str, str | bytes], max_age: float | None = None) -> Catalog:
    return Catalog(JSON, hooks=[Signing(keys, max_age, clock=Clock())])


def test_a_signed_event_opens_with_its_key() -> None:
    sealed = signed({"k1": "secret"}).seal(PLACED, micros=NOW, headers={"a": "b"})
    assert sealed.headers.keys() == {"a", KEY_HEADER, SIGNATURE_HEADER}
    assert sealed.headers[KEY_HEADER] == "k1"
    assert signed({"k1": b"secret"}).open(sealed, OrderPlaced) == PLACED
    assert signed({"k1": "secret"}).open(sealed, None).payload["amount"] == 4200


def test_keys_rotate_while_old_events_are_read() -> None:
    old, both, new = signed({"k1": "a"}), signed({"k2": "b", "k1": "a"}), signed({"k2": "b"})
    assert both.open(old.seal(PLACED, micros=NOW), OrderPlaced) == PLACED
    assert new.open(both.seal(PLACED, micros=NOW), OrderPlaced) == PLACED
    with pytest.raises(CodecError, match=r"^bad signature: the key 'k1' is not known"):
        new.open(old.seal(PLACED, micros=NOW), OrderPlaced)


FORGED: dict[str, Callable[[Envelope], Envelope]] = {
    "body": lambda e: altered(e, body=e.body.replace(b"4200", b"1")),
    "topic": lambda e: altered(e, topic="other"),
    "name": lambda e: altered(e, name="orders.order.shipped"),
    "id": lambda e: altered(e, id_bytes=new_id()),
    "time": lambda e: altered(e, micros=e.micros + 1),
    "version": lambda e: altered(e, version=2),
    "format": lambda e: altered(e, format="application/msgpack"),
    "key": lambda e: altered(e, key="o-2"),
    "no key": lambda e: altered(e, key=None),
    "moved boundary": lambda e: altered(e, topic=e.topic + "o", name=e.name[1:]),
    "signature": lambda e: altered(e, header_map={**e.headers, SIGNATURE_HEADER: "0" * 64}),
    "empty signature": lambda e: altered(e, header_map={**e.headers, SIGNATURE_HEADER: ""}),
    "signature that is no text": lambda e: altered(e, header_map={**e.headers, SIGNATURE_HEADER: "\ud800ü"}),
    "signature missing": lambda e: altered(e, header_map={KEY_HEADER: "k1"}),
    "key id": lambda e: altered(e, header_map={**e.headers, KEY_HEADER: "k2"}),
    "unknown key id": lambda e: altered(e, header_map={**e.headers, KEY_HEADER: "k3"}),
    "no headers": lambda e: altered(e, header_map=None),
    "text that is none": lambda e: altered(e, key="\ud800"),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("into", [OrderPlaced, None], ids=["class", "raw"])
def test_what_was_changed_behind_our_back_is_never_opened(forge: Callable[[Envelope], Envelope], into: Any) -> None:
    catalog = signed({"k1": "secret", "k2": "secret"})
    with pytest.raises(CodecError, match=r"^bad signature: "):
        catalog.open(forge(catalog.seal(PLACED, micros=NOW)), into)


def test_an_event_replayed_too_late_is_refused() -> None:
    catalog = signed({"k1": "secret"}, max_age=60)
    assert catalog.open(catalog.seal(PLACED, micros=NOW - 60_000_000), OrderPlaced) == PLACED
    with pytest.raises(CodecError, match=r"^bad signature: it is older than 60 s"):
        catalog.open(catalog.seal(PLACED, micros=NOW - 60_000_001), OrderPlaced)


def test_an_object_shown_in_a_dead_letter_is_signed_too() -> None:
    catalog = Catalog(JSON, objects=True, hooks=[Signing({"k1": "secret"})])
    shown = catalog.sealed(catalog.seal(PLACED, micros=NOW), PLACED)
    assert signed({"k1": "secret"}).open(shown, OrderPlaced) == PLACED


def test_a_signature_survives_a_json_library_in_between() -> None:
    sealed = signed({"k1": "secret"}).seal(PLACED, micros=NOW)
    carried = json.loads(json.dumps({**msgspec.to_builtins(sealed), "body": sealed.body.decode()}))
    again = altered(sealed, header_map=carried["header_map"], body=carried["body"].encode(), key=carried["key"])
    assert signed({"k1": "secret"}).open(again, OrderPlaced) == PLACED


@pytest.mark.parametrize("keys", [{}, {"": "a"}, {"k": ""}, {"k": 5}, {5: "a"}, None, "secret"], ids=repr)
def test_keys_that_sign_nothing_are_a_config_error(keys: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Signing(keys)
    assert "secret'" not in str(caught.value)
    with pytest.raises(ConfigError, match="max_age"):
        Signing({"k": "a"}, max_age=-1)
