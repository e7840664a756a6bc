"""The reference of public names, from their signatures and docstrings."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import msgspec

from .docstrings import as_markdown

__all__ = ["SECTIONS", "api", "unlisted"]

# (heading, module, names); a test sees to it that every name of `postbus.__all__` stands here.
SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("The bus", "postbus", ("Bus",)),
    ("Declaring", "postbus", ("event", "RawEvent", "Router", "Retry", "Handle")),
    ("Inside handlers and subscribers", "postbus", ("Context", "DeliveryContext", "Reject", "Snooze")),
    ("Middleware", "postbus", ("around_delivery", "around_publish", "around_thread", "Publishing")),
    ("What travels", "postbus", ("Envelope",)),
    ("What can be seen", "postbus", ("DeadLetter", "Failure", "Health", "OutboxStats", "Stats")),
    (
        "Behind `bus.subscriptions` and `bus.events`",
        "postbus.inspection",
        ("Subscriptions", "Events"),
    ),
    ("Behind `bus.dead`", "postbus.letters", ("DeadLetters",)),
    ("Behind `bus.outbox`", "postbus.outbox", ("Outbox",)),
    (
        "Their records",
        "postbus.transport",
        (
            "SubscriptionStats",
            "SubscriptionInfo",
            "SubscriptionSpec",
            "StoredEvent",
            "WorkerInfo",
            "DeadQuery",
            "EventQuery",
        ),
    ),
    ("Observing", "postbus.observe", ("Counters", "Published", "Started", "Finished", "Lost")),
    ("CloudEvents", "postbus.cloudevents", ("to_cloudevent", "from_cloudevent", "to_binary", "from_binary")),
    ("Signing", "postbus.signing", ("Signing",)),
    ("Testing", "postbus.testing", ("ManualClock",)),
    ("Seams", "postbus", ("Clock", "Codec")),
)
# Said elsewhere: errors have a table of their own, and type aliases are read where they are used.
_ELSEWHERE = frozenset({"Next"})


def api() -> str:
    """Every section."""
    return "\n\n".join(_section(heading, importlib.import_module(module), names) for heading, module, names in SECTIONS)


def unlisted() -> set[str]:
    """Public names that the reference leaves out."""
    package = importlib.import_module("postbus")
    listed = {name for _, _, names in SECTIONS for name in names}
    errors = set(importlib.import_module("postbus.errors").__all__)
    return set(package.__all__) - listed - errors - _ELSEWHERE


def _section(heading: str, module: ModuleType, names: tuple[str, ...]) -> str:
    place = "" if module.__name__ == "postbus" else f"In `{module.__name__}`."
    entries = [_entry(name, getattr(module, name)) for name in names]
    return "\n\n".join(part for part in (f"## {heading}", place, *entries) if part)


def _entry(name: str, thing: Any) -> str:
    if not isinstance(thing, type):
        return f"### `{name}`\n\n{_signature(name, thing)}\n\n{as_markdown(thing)}"
    made = _made(name, thing)
    how = as_markdown(vars(thing)["__init__"]) if made and "__init__" in vars(thing) else ""
    parts = [f"### `{name}`", made, as_markdown(thing), how, *_members(name, thing)]
    return "\n\n".join(part for part in parts if part)


def _made(name: str, kind: type[Any]) -> str:
    """How to make one; nothing where users only ever get one."""
    if getattr(kind, "_is_protocol", False) or issubclass(kind, dict | enum.Enum | BaseException):
        return ""
    if issubclass(kind, msgspec.Struct) or (dataclasses.is_dataclass(kind) and name != "Retry"):
        return ""
    return _signature(name, kind) if name in ("Bus", "Router", "Retry", "RawEvent", "Signing", "ManualClock") else ""


def _members(owner: str, kind: type[Any]) -> Iterator[str]:
    for name, member in vars(kind).items():
        if name.startswith("_") or not getattr(member, "__doc__", None):
            continue
        if isinstance(member, property):
            yield f"**`{owner}.{name}`** · {as_markdown(member.fget)}"
        elif isinstance(member, classmethod | staticmethod):
            yield f"#### `{owner}.{name}`\n\n{_signature(name, getattr(kind, name))}\n\n{as_markdown(member.__func__)}"
        elif inspect.isfunction(member):
            yield f"#### `{owner}.{name}`\n\n{_signature(name, member)}\n\n{as_markdown(member)}"


def _signature(name: str, thing: Any) -> str:
    """The call as one would write it; a parameter a line where one line would be long."""
    given = [p for p in inspect.signature(thing).parameters.values() if p.name != "self"]
    shown = [_parameter(p) for p in given]
    star = next((n for n, p in enumerate(given) if p.kind is p.KEYWORD_ONLY), None)
    if star is not None and not any(p.kind is p.VAR_POSITIONAL for p in given):
        shown.insert(star, "*")
    prefix, returns = _kind(thing), _returns(thing)
    line = f"{prefix}{name}({', '.join(shown)}){returns}"
    if len(line) > 100:
        line = f"{prefix}{name}(\n" + "".join(f"    {part},\n" for part in shown) + f"){returns}"
    return f"```python\n{line}\n```"


def _kind(thing: Any) -> str:
    """What stands before the name of what is awaited, or entered."""
    function = getattr(thing, "__func__", thing)
    if inspect.isasyncgenfunction(getattr(function, "__wrapped__", function)):
        return "async with "
    return "await " if inspect.iscoroutinefunction(function) else ""


def _parameter(parameter: inspect.Parameter) -> str:
    stars = (
        "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    )
    text = f"{stars}{parameter.name}{_annotated(parameter.annotation)}"
    if parameter.default is parameter.empty:
        return text
    default = "..." if " at 0x" in repr(parameter.default) else repr(parameter.default).replace("'", '"')
    return f"{text} = {default}"


def _annotated(annotation: object) -> str:
    return "" if annotation is inspect.Parameter.empty else f": {_plain(annotation)}"


def _returns(thing: Any) -> str:
    if isinstance(thing, type):
        return ""
    annotation = inspect.signature(thing).return_annotation
    if annotation is inspect.Signature.empty:
        return ""
    entered = re.fullmatch(r"AsyncIterator\[(.*)\]", _plain(annotation))
    return f" as {entered[1].lower()}" if entered and _kind(thing) == "async with " else f" -> {_plain(annotation)}"


def _plain(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b(?:postbus|typing|collections\.abc)\.(?:\w+\.)*", "", text)
