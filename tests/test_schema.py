"""The catalogue: AsyncAPI and JSON Schema that validators accept, breaking changes, and who publishes and reacts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, make_dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import jsonschema
import msgspec
import pytest

import catalogue
from cli.commands import postbus
from postbus import Bus, ConfigError, event
from postbus.codec import codec_named
from postbus.compatibility import problems, read_file
from postbus.graph import graph_of
from postbus.schema import asyncapi, described

HERE = Path(__file__).parent
VENDOR = HERE / "vendor"
APP = ("--app-dir", str(HERE), "catalogue:bus")


@cache
def validator() -> jsonschema.Draft7Validator:
    schema = json.loads((VENDOR / "asyncapi-3.1.0.json").read_text("utf-8"))
    return jsonschema.Draft7Validator(schema)


def plain(payload: object) -> Any:
    return json.loads(codec_named("json").encode(payload))


PLACED = catalogue.OrderPlaced(uuid4(), datetime.now(UTC), [catalogue.Item("a", catalogue.Decimal("1.5"), [])])
EVENTS = {
    "orders.order.placed": PLACED,
    "orders.order.paid": catalogue.OrderPaid(uuid4(), 5),
    "users.user.renamed": catalogue.UserRenamed(user_id=1, userName="x"),
}


def test_the_vendored_schema_is_the_one_that_is_named() -> None:
    named = dict(line.split(": ", 1) for line in (VENDOR / "VENDOR.txt").read_text().splitlines())
    assert hashlib.sha256((VENDOR / "asyncapi-3.1.0.json").read_bytes()).hexdigest() == named["sha256"]


def test_the_export_is_valid_asyncapi() -> None:
    document = json.loads(postbus("schema", "export", *APP).out)
    assert document["asyncapi"] == "3.1.0"
    errors = [f"{list(error.path)}: {error.message}" for error in validator().iter_errors(document)]
    assert errors == []


def test_a_document_that_is_wrong_would_be_found() -> None:
    document = asyncapi(catalogue.bus)
    document["operations"]["audit.orders.order"]["action"] = "listen"
    assert not validator().is_valid(document)


def test_every_reference_of_the_export_leads_somewhere() -> None:
    document = asyncapi(catalogue.bus)
    text = json.dumps(document)
    refs = {part.split('"')[0] for part in text.split('"$ref": "')[1:]}
    assert refs
    for ref in refs:
        found: Any = document
        for step in ref.removeprefix("#/").split("/"):
            found = found[step]


def test_the_export_says_who_receives_what() -> None:
    document = asyncapi(catalogue.bus)
    assert set(document["channels"]) == {"orders.order", "users.user", "audit.entry"}
    assert set(document["operations"]) == {"receipts", "search", "audit.orders.order", "audit.audit.entry"}
    received = [message["$ref"].rpartition("/")[2] for message in document["operations"]["receipts"]["messages"]]
    assert received == ["orders.order.paid", "orders.order.placed"]
    assert document["operations"]["receipts"]["x-postbus-handler"] == "catalogue:receipts"
    assert document["components"]["messages"]["orders.order.placed"]["x-postbus-version"] == 2
    assert "payload" not in document["components"]["messages"]["audit.entry.written"]


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_what_is_published_fits_its_json_schema(name: str) -> None:
    schemas = json.loads(postbus("schema", "export", "--format", "json-schema", *APP).out)
    schema = schemas[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    payload = plain(EVENTS[name])
    jsonschema.Draft202012Validator(schema).validate(payload)
    for field in schema.get("required") or schema["$defs"][schema["$ref"].rpartition("/")[2]]["required"]:
        broken = {key: value for key, value in payload.items() if key != field}
        assert not jsonschema.Draft202012Validator(schema).is_valid(broken)


def test_an_event_without_a_schema_is_named() -> None:
    @event("odd.thing.made")
    @dataclass
    class Odd:
        value: complex

    bus = Bus("memory://")
    bus.add_handler(lambda _: None, Odd)
    with pytest.raises(ConfigError, match=r"Odd has no JSON Schema"):
        described(bus)


# -- breaking changes


def events_of(name: str = "orders.order.placed", version: int = 1, topic: str | None = None, **fields: Any) -> Any:
    """What a program with one event of these fields declares; a tuple is a type and its default."""
    made = make_dataclass(
        "Made", [(n, *t) if isinstance(t, tuple) else (n, t) for n, t in fields.items()], kw_only=True
    )
    bus = Bus("memory://")
    bus.add_handler(lambda _: None, event(name, version=version, topic=topic)(made))
    return described(bus)


def broken(old: Any, new: Any) -> list[str]:
    return [str(problem) for problem in problems(old, new)]


class Two(Enum):
    A = "a"
    B = "b"


class Three(Enum):
    A = "a"
    B = "b"
    C = "c"


Small = Annotated[int, msgspec.Meta(le=10)]
Large = Annotated[int, msgspec.Meta(le=100)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a": int}, {"a": int}),
        ({"a": int}, {"a": int, "b": (str, "x")}),
        ({"a": int, "b": (str, "x")}, {"a": int}),
        ({"a": list[int]}, {"a": list[int]}),
    ],
)
def test_what_both_sides_can_read_is_no_break(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert broken(events_of(**old), events_of(**new)) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": int}, {"a": str}, ["field a: integer became string: what is stored", "field a: string became integer"]),
        (
            {"a": int},
            {"a": int, "b": str},
            ["field b: is required on one side and unknown on the other: what is stored"],
        ),
        ({"a": int, "b": str}, {"a": int}, ["field b: is required on one side and unknown on the other: programs"]),
        ({"a": int}, {"a": float}, ["field a: number became integer: programs"]),
        ({"a": int}, {"a": int | None}, ["field a: null became integer: programs"]),
        ({"a": int | None}, {"a": int}, ["field a: null became integer: what is stored"]),
        ({"a": Two}, {"a": Three}, ["field a: 'c' is not one of ['a', 'b']: programs"]),
        ({"a": str}, {"a": Two}, ["field a: string is not one of ['a', 'b']: what is stored"]),
        ({"a": list[int]}, {"a": list[str]}, ["field a[]: integer became string", "field a[]: string became integer"]),
        ({"a": dict[str, int]}, {"a": dict[str, str]}, ["field a.*: integer became", "field a.*: string became"]),
        ({"a": Small}, {"a": Large}, ["field a: maximum is 10 on one side and 100 on the other: programs"]),
    ],
)
def test_a_break_names_event_field_and_whom_it_breaks(
    old: dict[str, Any], new: dict[str, Any], expected: list[str]
) -> None:
    found = broken(events_of(**old), events_of(**new))
    assert len(found) == len(expected), found
    for problem, text in zip(found, expected, strict=True):
        assert problem.startswith(f"orders.order.placed {text}"), problem


def test_events_that_vanish_move_or_go_back_break() -> None:
    old = events_of(a=int, version=2)
    assert broken(old, {})[0].startswith("orders.order.placed: was removed")
    assert (
        "moved from topic 'orders.order' to 'elsewhere'"
        in broken(old, events_of(a=int, version=2, topic="elsewhere"))[0]
    )
    assert "went back from version 2 to 1" in broken(old, events_of(a=int))[0]
    assert broken({}, old) == []


def test_a_raised_version_may_change_as_it_likes() -> None:
    assert broken(events_of(a=int), events_of(version=2, a=str)) == []


def test_types_that_hold_themselves_are_compared_once() -> None:
    old = described(catalogue.bus)
    assert problems(old, described(catalogue.bus)) == []


@pytest.mark.parametrize("form", ["asyncapi", "json-schema"])
def test_an_export_is_read_back_and_nothing_breaks(form: str, tmp_path: Path) -> None:
    file = tmp_path / "events.json"
    assert postbus("schema", "export", "--format", form, "-o", str(file), *APP).code == 0
    same = postbus("schema", "check", "--against", str(file), *APP)
    assert (same.code, same.out) == (0, "")
    text = file.read_text().replace('"sku"', '"article"').replace('"minimum": 0', '"minimum": 10')
    file.write_text(text)
    different = postbus("schema", "check", "--against", str(file), *APP)
    assert different.code == 4
    assert "orders.order.placed field items[].article" in different.out
    assert "orders.order.paid field cents: minimum is 10" in different.out
    told = postbus("schema", "check", "--json", "--against", str(file), *APP)
    assert {line["event"] for line in told.lines} == {"orders.order.placed", "orders.order.paid"}


@pytest.mark.parametrize("document", [[], {"asyncapi": "2.6.0"}, {"a": 1}])
def test_what_is_no_export_is_refused(document: Any) -> None:
    with pytest.raises(ConfigError, match="no export"):
        read_file(document)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "events.json"
    file.write_text("nonsense")
    told = postbus("schema", "check", "--against", str(file), *APP)
    assert told.code == 2
    assert "events.json cannot be read" in told.err


# -- who publishes, who reacts


def test_the_source_shows_who_publishes() -> None:
    nodes = {node.name: node for node in graph_of(catalogue.bus).events}
    assert nodes["orders.order.placed"].publishers == ("catalogue:place.later",)
    assert nodes["orders.order.paid"].publishers == ("catalogue:Shop.pay",)
    assert nodes["audit.entry.written"].publishers == ("catalogue:Shop.pay",)
    assert nodes["users.user.renamed"].publishers == ("catalogue:receipts",)


def test_declarations_show_who_reacts() -> None:
    nodes = {node.name: node for node in graph_of(catalogue.bus).events}
    assert nodes["orders.order.placed"].handlers == ("catalogue:reserve",)
    assert nodes["orders.order.placed"].subscriptions == ("audit", "receipts")
    assert nodes["audit.entry.written"].subscriptions == ("audit",)
    assert nodes["audit.entry.written"].schema is None


def test_the_graph_is_text_mermaid_and_json() -> None:
    text = postbus("graph", *APP).out
    assert (
        "orders.order.paid  (topic orders.order, version 1)\n  <- catalogue:Shop.pay\n  -> audit\n  -> receipts" in text
    )
    mermaid = postbus("graph", "--mermaid", *APP).out
    assert mermaid.startswith("flowchart LR\n")
    assert mermaid.count("-->") == 4 + 6
    assert mermaid.count("==>") == 1
    assert {line["name"] for line in postbus("graph", "--json", *APP).lines} == {*EVENTS, "audit.entry.written"}
