"""What of an event is shown: payload, headers and error text, with what must not be seen taken out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..catalog import Catalog
from ..envelope import Envelope
from ..errors import CodecError

__all__ = ["HIDDEN", "Redact", "Shown", "shown_of", "without_secrets"]

HIDDEN = "•••"
_SECRET = re.compile(
    r"(?i)pass(word|wd|phrase)|secret|token|api[-_.]?key|authorization|cookie|credential|private[-_.]?key"
)
# As deep as the codecs go.
_DEEPEST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What is shown of one event.

    Attributes:
        name: its wire name.
        payload: plain data: mappings, lists, text, numbers.
        headers: what travelled with it.
        error: why it cannot be decoded; the payload is None then.
        hidden: whether something was taken out: such an event cannot be amended or exported whole.
    """

    name: str
    payload: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    hidden: bool = False


Redact: TypeAlias = Callable[[Shown], Shown]


def shown_of(envelope: Envelope, catalog: Catalog, redact: Redact) -> Shown:
    """What is shown of this event: without secrets, and then without what `redact` takes out."""
    try:
        payload, error = catalog.open(envelope, None).payload, None
    except CodecError as failed:
        payload, error = None, str(failed)
    whole = Shown(name=envelope.name, payload=payload, headers=dict(envelope.headers), error=error)
    seen = redact(without_secrets(whole))
    changed = seen.payload != whole.payload or dict(seen.headers) != dict(whole.headers)
    return replace(seen, hidden=seen.hidden or changed)


def without_secrets(shown: Shown) -> Shown:
    """Without the values of fields and headers that are named like a secret."""
    headers = {name: HIDDEN if _SECRET.search(name) else value for name, value in shown.headers.items()}
    return replace(shown, payload=_masked(shown.payload, 0), headers=headers)


def _masked(value: Any, depth: int) -> Any:
    if depth > _DEEPEST:
        return value
    if isinstance(value, dict):
        return {
            name: HIDDEN if isinstance(name, str) and _SECRET.search(name) else _masked(one, depth + 1)
            for name, one in value.items()
        }
    return [_masked(one, depth + 1) for one in value] if isinstance(value, list) else value
