"""An event becomes bytes, and bytes an event: MessagePack and JSON, both strict.

msgspec does the work.  This room adds what msgspec lets through (NaN, nesting without end, odd UTC offsets), pydantic
models, and one error for whatever goes wrong.  Knows nothing of topics, envelopes or sizes: see catalog.py.

Nearly every event is cleared by a glance at its bytes, which costs a fraction of the encoding; only what could be
wrong is looked at closely.  A glance may suspect too much, never too little.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time
from math import isfinite
from operator import attrgetter
from typing import Any, Final, NoReturn, Protocol

import msgspec

from .errors import CodecError, ConfigError
from .event import RawEvent, mark_if_any
from .limits import MAX_DEPTH, OFFSET, OPEN, Shape, culprit, direct_floats, misfit, shape_of, too_deep
from .models import cause, dump, dump_as_json, is_model, load, reason

__all__ = ["Codec", "JsonCodec", "MsgpackCodec", "codec_for", "codec_named"]


class Codec(Protocol):
    """One format.  Safe to use from several threads at once."""

    @property
    def content_type(self) -> str:
        """What `Envelope.format` says of its bodies."""
        ...

    def encode(self, event: Any) -> bytes:
        """Return an event, or the payload of a `RawEvent`, as bytes that `decode` turns into its equal.

        Raises:
            CodecError: when that is not possible, naming the event and the field.
        """
        ...

    def decode(self, body: bytes, event_type: type[Any]) -> Any:
        """Return the event in `body`, validated as `event_type`; fields it does not know are left out.

        Raises:
            CodecError: and nothing else, whatever the bytes are.
        """
        ...

    def plain(self, body: bytes) -> Any:
        """Return what is in `body` as None, bool, int, float, str, bytes, lists and dicts.

        Raises:
            CodecError: and nothing else, whatever the bytes are.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is done for one type, decided once.

    `open`, `floats`, `dates` and `times` are as in `Shape`.  `numbers` returns the sum of all floats of an event, where
    these are fields of the event itself: quicker to ask than its bytes.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    open: bool
    floats: bool
    dates: bool
    times: bool
    numbers: Callable[[Any], float] | None = None


def _plan(
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    shape: Shape,
    numbers: Callable[[Any], float] | None = None,
) -> _Plan:
    return _Plan(encode, decode, shape.open, shape.floats, shape.dates, shape.times, numbers)


# Plain data, judged when the raw event was made: no datetimes in it, but it may have been changed since.
_RAW: Final = Shape(open=True, floats=True)


class MsgpackCodec:
    """MessagePack: datetimes with a time zone become timestamps, bytes stay bytes, keys may be any scalar."""

    content_type: Final = "application/msgpack"

    def __init__(self) -> None:
        self._plans: dict[type[Any], _Plan] = {}

    def encode(self, event: Any) -> bytes:
        """See `Codec`."""
        try:
            try:
                plan = self._plans[type(event)]
            except KeyError:
                plan = self._plans[type(event)] = _msgpack_plan(type(event))
            body = plan.encode(event)
        except CodecError:
            raise
        except Exception as error:  # noqa: BLE001 - a model's serializers are the user's code, and may raise anything
            _cannot_encode(event, error, _pack)
        if (
            ((plan.floats or body.find(_FLOAT64) >= 0) and _NON_FINITE64(body))
            or (plan.open and _many_containers(body))
            or (plan.times and OFFSET(body))
        ):
            _look_closer(event, dates=False)
        return body

    def decode(self, body: bytes, event_type: type[Any]) -> Any:
        """See `Codec`."""
        try:
            try:
                plan = self._plans[event_type]
            except KeyError:
                plan = self._plans[event_type] = _msgpack_plan(event_type)
            event = plan.decode(body)
        except Exception as error:  # noqa: BLE001 - a class's __post_init__ and validators are the user's code
            _cannot_decode(_label(event_type), error)
        if (
            not isfinite(plan.numbers(event)) if plan.numbers is not None else plan.floats and _maybe_non_finite(body)
        ) or (plan.open and _many_containers(body)):
            _judge(_UNPACK(body), _label(event_type))
        return event

    def plain(self, body: bytes) -> Any:
        """See `Codec`; a timestamp becomes text, as it would be in JSON."""
        try:
            data = _UNPACK(body)
            # Only now, on data that was parsed: a payload must look the same whichever way it travelled.
            result = msgspec.to_builtins(data, builtin_types=(bytes,))
        except Exception as error:  # noqa: BLE001 - whatever the bytes are, the worker lives
            _cannot_decode("the payload", error)
        if _maybe_non_finite(body) or _many_containers(body):
            _judge(data, "the payload")
        return result


class JsonCodec:
    """JSON: bytes become base64, datetimes ISO 8601 text."""

    content_type: Final = "application/json"

    def __init__(self) -> None:
        self._plans: dict[type[Any], _Plan] = {}

    def encode(self, event: Any) -> bytes:
        """See `Codec`."""
        try:
            try:
                plan = self._plans[type(event)]
            except KeyError:
                plan = self._plans[type(event)] = _json_plan(type(event))
            body = plan.encode(event)
        except Exception as error:  # noqa: BLE001 - a model's serializers are the user's code, and may raise anything
            _cannot_encode(event, error, _write)
        if (
            (_NULL(body) and _hides_non_finite(event))  # msgspec writes NaN as null, and says nothing
            or (plan.floats and _NON_FINITE_KEY(body))
            or (plan.open and _many_brackets(body))
            or ((plan.dates or plan.times) and OFFSET(body))
        ):
            _look_closer(event, dates=True)
        return body

    def decode(self, body: bytes, event_type: type[Any]) -> Any:
        """See `Codec`."""
        try:
            try:
                plan = self._plans[event_type]
            except KeyError:
                plan = self._plans[event_type] = _json_plan(event_type)
            event = plan.decode(body)
        except Exception as error:  # noqa: BLE001 - a class's __post_init__ and validators are the user's code
            _cannot_decode(_label(event_type), error)
        if plan.floats and _NON_FINITE_KEY(body):
            _look_closer(event, dates=True, what="decoded")
        if plan.open and _many_brackets(body):
            _judge(_PARSE(body), _label(event_type))
        return event

    def plain(self, body: bytes) -> Any:
        """See `Codec`."""
        try:
            data = _PARSE(body)
        except Exception as error:  # noqa: BLE001 - whatever the bytes are, the worker lives
            _cannot_decode("the payload", error)
        if _many_brackets(body):
            _judge(data, "the payload")
        return data


_CODECS: Final[dict[str, type[MsgpackCodec | JsonCodec]]] = {"msgpack": MsgpackCodec, "json": JsonCodec}
_ALIASES: Final = {
    "application/msgpack": "msgpack",
    "application/x-msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
    "application/json": "json",
    "text/json": "json",
}


def codec_named(name: str) -> Codec:
    """Return the codec of a `codec=` setting.

    Raises:
        ConfigError: when there is none of that name, with the names there are.
    """
    made = _CODECS.get(name) if isinstance(name, str) else None
    if made is None:
        raise ConfigError(f"codec={name!r} is not known: expected one of {', '.join(map(repr, _CODECS))}")
    return made()


def codec_for(content_type: str) -> Codec | None:
    """Return the codec that reads this content type, whatever its parameters and spelling; None when there is none."""
    bare = content_type.partition(";")[0].strip().lower()
    name = "json" if bare.endswith("+json") else _ALIASES.get(bare)
    return None if name is None else codec_named(name)


# --- MessagePack -----------------------------------------------------------------------------------------------------

_FLOAT64: Final = 0xCB
_FLOAT32: Final = 0xCA
# All non-finite floats, and a few of the largest finite ones, have these first two bytes.
_NON_FINITE64: Final = re.compile(rb"\xcb[\x7f\xff]").search
_NON_FINITE32: Final = re.compile(rb"\xca[\x7f\xff]").search
# Every byte that does not begin a map or array (fixmap, fixarray, array16, array32, map16, map32).
_NO_CONTAINER: Final = bytes(set(range(256)) - {*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF})


def _no_extension(code: int, _data: memoryview) -> NoReturn:
    raise ValueError(f"MessagePack extension type {code} is not known")


_PACK: Final = msgspec.msgpack.Encoder(enc_hook=dump).encode
_PACK_AS_JSON: Final = msgspec.msgpack.Encoder(enc_hook=dump_as_json).encode
_UNPACK: Final = msgspec.msgpack.Decoder(ext_hook=_no_extension).decode


def _msgpack_plan(event_type: type[Any]) -> _Plan:
    if event_type is RawEvent:
        return _plan(lambda event: _PACK(event.payload), _no_class, _RAW)
    if is_model(event_type):
        return _plan(_pack, lambda body: load(event_type, _UNPACK(body)), OPEN)
    shape = shape_of(event_type)
    decoder = msgspec.msgpack.Decoder(event_type, dec_hook=load, ext_hook=_no_extension)
    return _plan(_pack if shape.open else _PACK, decoder.decode, shape, _sum_of(direct_floats(event_type)))


def _sum_of(fields: tuple[str, ...]) -> Callable[[Any], float] | None:
    if not fields:
        return None
    getter: Callable[[Any], Any] = attrgetter(*fields)
    return getter if len(fields) == 1 else lambda event: sum(getter(event))


def _pack(event: Any) -> bytes:
    """Encode anything: models, what holds models, and raw events."""
    data = _payload(event)
    try:
        return _PACK(dump(data) if is_model(type(data)) else data)
    except TypeError:
        # A model may hold what only its own JSON has a form for, such as a URL.  That JSON has null for a NaN.
        _look_closer(event, dates=False)
        return _PACK_AS_JSON(dump_as_json(data) if is_model(type(data)) else data)


def _maybe_non_finite(body: bytes) -> bool:
    return (body.find(_FLOAT64) >= 0 and _NON_FINITE64(body) is not None) or (
        body.find(_FLOAT32) >= 0 and _NON_FINITE32(body) is not None
    )


def _many_containers(body: bytes) -> bool:
    return len(body) > MAX_DEPTH and len(body.translate(None, _NO_CONTAINER)) > MAX_DEPTH


# --- JSON ------------------------------------------------------------------------------------------------------------

_NULL: Final = re.compile(rb"null").search
_NON_FINITE_KEY: Final = re.compile(rb'"[+-]?(?:nan|inf|infinity)"', re.IGNORECASE).search

_WRITE: Final = msgspec.json.Encoder(enc_hook=dump_as_json).encode
_PARSE: Final = msgspec.json.Decoder().decode


def _json_plan(event_type: type[Any]) -> _Plan:
    if event_type is RawEvent:
        return _plan(lambda event: _WRITE(event.payload), _no_class, _RAW)
    if is_model(event_type):
        return _plan(_write, lambda body: load(event_type, _PARSE(body)), OPEN)
    return _plan(_WRITE, msgspec.json.Decoder(event_type, dec_hook=load).decode, shape_of(event_type))


def _write(event: Any) -> bytes:
    data = _payload(event)
    return _WRITE(dump_as_json(data) if is_model(type(data)) else data)


def _many_brackets(body: bytes) -> bool:
    return len(body) > MAX_DEPTH and body.count(b"[") + body.count(b"{") > MAX_DEPTH


def _hides_non_finite(event: Any) -> bool:
    """Whether one of the nulls may stand for a NaN: MessagePack, which writes it as it is, shows that quickly."""
    try:
        packed = _pack(event)
    except Exception:  # noqa: BLE001 - JSON carries more than MessagePack, such as longer integers
        return True
    return _NON_FINITE64(packed) is not None


# --- both ------------------------------------------------------------------------------------------------------------


def _no_class(_body: bytes) -> NoReturn:
    raise TypeError("RawEvent has no shape to decode into: use `plain`")


def _payload(event: Any) -> Any:
    return event.payload if type(event) is RawEvent else event


def _look_closer(event: Any, *, dates: bool, what: str = "encoded") -> None:
    """Judge an event by its values, where its bytes may be wrong about them."""
    data = _payload(event)
    try:
        data = msgspec.to_builtins(
            _loose(data) if is_model(type(data)) else data,
            builtin_types=(bytes, time, datetime) if dates else (bytes, time),
            enc_hook=_loose,
        )
    except Exception as error:  # noqa: BLE001 - a model's serializers are the user's code, and may raise anything
        _cannot_encode(event, error, _pack)
    _judge(data, _label(type(event), event), what)


def _loose(value: Any) -> Any:
    """A model's values, or the text of what only a model could hold."""
    return dump(value) if is_model(type(value)) else str(value)


def _judge(data: object, label: str, what: str = "decoded") -> None:
    fault = f"it nests deeper than {MAX_DEPTH} levels" if too_deep(data) else misfit(data)
    if fault:
        raise CodecError(f"{label} cannot be {what}: {fault}")


def _cannot_encode(event: Any, error: Exception, encode: Callable[[Any], bytes]) -> NoReturn:
    label = _label(type(event), event)
    if isinstance(error, RecursionError):
        raise CodecError(
            f"{label} cannot be encoded: it nests deeper than {MAX_DEPTH} levels, or holds itself"
        ) from error
    where = culprit(_payload(event), encode)
    raise CodecError(f"{label} cannot be encoded: {reason(error)}{where}") from cause(error)


def _cannot_decode(label: str, error: Exception) -> NoReturn:
    if isinstance(error, RecursionError):
        raise CodecError(f"{label} cannot be decoded: it nests deeper than {MAX_DEPTH} levels") from error
    raise CodecError(f"{label} cannot be decoded: {reason(error)}") from cause(error)


def _label(event_type: Any, event: Any = None) -> str:
    name = event.name if type(event) is RawEvent else getattr(mark_if_any(event_type), "name", None)
    return f"event {name!r}" if name else str(getattr(event_type, "__qualname__", event_type))
