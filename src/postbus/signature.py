"""Reads a function once, at registration: is it async, does it want a context, which event does it name?"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .context import Context, DeliveryContext
from .errors import ConfigError

__all__ = ["Signature", "label_of", "read_signature"]

_PACKAGE = __name__.partition(".")[0] + "."


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function asks for.

    Attributes:
        is_async: it is `async def`.
        wants_context: it has a second parameter annotated `Context` or `DeliveryContext`.
        event_types: the classes that its first parameter's annotation names; a union gives several.
        unresolved: that annotation, where it names something that cannot be found.
        tx_type: the class that its last parameter is annotated with, to be given the transaction.
    """

    is_async: bool
    wants_context: bool
    event_types: tuple[type[Any], ...]
    unresolved: str | None = None
    tx_type: type[Any] | None = None


def read_signature(fn: Callable[..., object], *, delivered: bool, transactional: bool = False) -> Signature:
    """Read a handler (`delivered=False`) or subscriber; a transactional one may ask for its transaction, too.

    Raises:
        ConfigError: when it cannot be called with an event, or with an event and a context.
    """
    label = label_of(fn)
    if not callable(fn):
        raise ConfigError(f"{fn!r} is not a function: decorate a `def` or `async def` that takes the event")
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the signature of {label} cannot be read: wrap it in a `def` that takes the event"
        ) from error
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not places and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise ConfigError(f"{label} takes no event: its first parameter is the event")
    hints = _hints(fn)
    wants_context = len(places) > 1 and _is_context(
        hints.get(places[1].name, places[1].annotation), label, delivered=delivered
    )
    given = 2 if wants_context else 1
    tx_type = _tx_type(places[given], hints) if transactional and len(places) > given else None
    given += tx_type is not None
    for extra in parameters:
        required = extra.default is extra.empty and extra.kind not in (extra.VAR_POSITIONAL, extra.VAR_KEYWORD)
        if required and extra not in places[:given]:
            may = "; a transactional one's last may be annotated with the class of its transaction"
            raise ConfigError(
                f"{label} requires a parameter {extra.name!r} that nobody will pass: the first is the event, "
                f"the second may be annotated `Context`{may if delivered else ''}, others need defaults"
            )
    annotation = hints.get(places[0].name) if places else None
    unresolved = annotation if isinstance(annotation, str) else None
    return Signature(_is_async(fn), wants_context, _classes(annotation), unresolved, tx_type)


def _tx_type(parameter: inspect.Parameter, hints: dict[str, Any]) -> type[Any] | None:
    """The class of the transaction that it asks for; one with a default asks for nothing."""
    annotation = hints.get(parameter.name)
    asks = parameter.default is parameter.empty and isinstance(annotation, type)
    return annotation if asks else None


def label_of(fn: object) -> str:
    """Where a function is, as `module:qualname`, for people."""
    while isinstance(fn, partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return f"{getattr(fn, '__module__', None) or '?'}:{name}"


def _is_async(fn: object) -> bool:
    while isinstance(fn, partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def _is_context(annotation: object, label: str, *, delivered: bool) -> bool:
    if isinstance(annotation, str):  # it could not be resolved: go by its last word
        annotation = {"Context": Context, "DeliveryContext": DeliveryContext}.get(annotation.rpartition(".")[2])
    kinds = _classes(annotation)
    if DeliveryContext in kinds and not delivered:
        raise ConfigError(f"{label} is an in-process handler, and there is no delivery: annotate `Context` instead")
    return any(issubclass(kind, Context) for kind in kinds)  # `Context | None` is for who also calls it by hand


def _classes(annotation: object) -> tuple[type[Any], ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = typing.get_args(annotation)
        return tuple(m for m in members if isinstance(m, type)) if all(isinstance(m, type) for m in members) else ()
    return (annotation,) if isinstance(annotation, type) and annotation not in (object, typing.Any) else ()


def _hints(fn: object) -> dict[str, Any]:
    """Resolved annotations.  Classes that live in the registering function are found in its frame."""
    while isinstance(fn, partial):
        fn = fn.func
    target = fn if hasattr(fn, "__annotations__") or inspect.ismethod(fn) else getattr(fn, "__call__", fn)  # noqa: B004
    try:
        return typing.get_type_hints(target, localns=_callers_names())
    except (NameError, TypeError, AttributeError, SyntaxError):
        return dict(getattr(target, "__annotations__", {}))


def _callers_names() -> dict[str, Any]:
    frame: types.FrameType | None = sys._getframe(1)  # noqa: SLF001 - as typing and dataclasses do
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    return dict(frame.f_locals) if frame is not None else {}
