"""What may be said of one publish beside the event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypedDict
from uuid import UUID

import msgspec

from .clock import Span, seconds
from .errors import ConfigError

__all__ = ["NO_OPTIONS", "Options", "PublishOptions"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one publish; see `Bus.publish`."""

    key: object = None
    id: UUID | None = None
    headers: Mapping[str, str] | None = None
    delay: Span | None = None
    at: datetime | None = None
    expires: Span | datetime | None = None
    within: Any = None

    @property
    def plain(self) -> bool:
        """Whether nothing is said but the transaction."""
        return (
            self.key is None
            and self.id is None
            and self.headers is None
            and self.delay is None
            and self.at is None
            and self.expires is None
        )

    def delay_from(self, now: float) -> float:
        """Seconds until it may be received.

        Raises:
            ConfigError: when it makes no sense; so does `expires_from`.
        """
        if self.at is None:
            return 0.0 if self.delay is None else seconds(self.delay, "delay")
        if self.delay is not None:
            raise ConfigError("publish() takes delay= or at=, not both")
        return max(0.0, _instant(self.at, "at") - now)

    def expires_from(self, now: float) -> int | None:
        """When it is no longer worth delivering, in microseconds since 1970."""
        expires = self.expires
        if expires is None:
            return None
        at = _instant(expires, "expires") if isinstance(expires, datetime) else now + seconds(expires, "expires")
        return int(at * 1e6)


def _instant(at: datetime, what: str) -> float:
    if not isinstance(at, datetime) or at.tzinfo is None:
        raise ConfigError(
            f"{what}={at!r}: expected an aware datetime, such as datetime.now(UTC) + {timedelta(hours=1)!r}"
        )
    return at.timestamp()


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
