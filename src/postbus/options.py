"""What may be said of one publish beside the event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypedDict
from uuid import UUID

from .clock import Span

__all__ = ["NO_OPTIONS", "Options", "PublishOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one publish; see `Bus.publish`."""

    key: object = None
    id: UUID | None = None
    headers: Mapping[str, str] | None = None
    delay: Span | None = None
    at: datetime | None = None
    expires: Span | datetime | None = None
    within: Any = None


NO_OPTIONS: Final = Options()


class PublishOptions(TypedDict, total=False):
    """The same, as keywords."""

    key: object
    id: UUID | None
    headers: Mapping[str, str] | None
    delay: Span | None
    at: datetime | None
    expires: Span | datetime | None
    within: Any
