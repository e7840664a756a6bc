"""pydantic models, known by how they look and never imported: dumped to plain values and loaded from them.

A model travels under its fields' own names, so that it reads what it wrote whatever its aliases are; on the way in an
alias does as well.  Its validators run on every load.
"""

from __future__ import annotations

from typing import Any

__all__ = ["cause", "dump", "dump_as_json", "is_model", "load", "reason"]

_REASON = 500


def is_model(event_type: Any) -> bool:
    """Whether it is a pydantic model or dataclass.  A plain subclass of a pydantic dataclass is not."""
    return "__pydantic_validator__" in getattr(event_type, "__dict__", ())


def dump(model: Any) -> Any:
    """The model's values as Python has them, nested models included.

    Raises:
        TypeError: when it is no model; msgspec asks for whatever it cannot encode.
    """
    return _serializer(model).to_python(model, round_trip=True, by_alias=False)


def dump_as_json(model: Any) -> Any:
    """The model's values as its own JSON has them: for formats and types that know no better."""
    return _serializer(model).to_python(model, mode="json", round_trip=True, by_alias=False)


def _serializer(model: Any) -> Any:
    kind = type(model)
    if not is_model(kind):
        raise TypeError(f"objects of type {kind.__qualname__} have no form in bytes")
    return kind.__pydantic_serializer__


def load(model_type: Any, data: Any) -> Any:
    """Validate plain values as a model.

    Raises:
        TypeError: when it is no model.
        ValueError: when the values do not fit; its text does not quote them.
    """
    if not is_model(model_type):
        raise TypeError(f"the type {getattr(model_type, '__qualname__', model_type)} has no form in bytes")
    # Not strict even for a strict model: in bytes, text stands for a UUID or a Decimal, and a list for a set.
    try:
        return model_type.__pydantic_validator__.validate_python(data, strict=False, by_alias=True, by_name=True)
    except ValueError as error:
        if not _quotes_values(error):
            raise
        raise ValueError(reason(error)) from None


def reason(error: BaseException) -> str:
    """Why it failed, without the values that pydantic likes to quote: errors end up in logs and dead letters."""
    if _quotes_values(error):
        found = error.errors(include_url=False, include_context=False, include_input=False)  # type: ignore[attr-defined]
        text = "; ".join(f"{one['msg']} - at `$.{'.'.join(map(str, one['loc']))}`" for one in found[:5])
    else:
        text = str(error) or type(error).__name__
    return text if len(text) <= _REASON else text[: _REASON - 3] + "..."


def cause(error: Exception) -> Exception | None:
    """What to chain to the error that is raised instead: not what shows the payload when it is printed."""
    return None if _quotes_values(error) else error


def _quotes_values(error: BaseException) -> bool:
    """Whether it is pydantic's validation error."""
    return type(error).__module__.partition(".")[0] == "pydantic_core" and hasattr(error, "errors")
