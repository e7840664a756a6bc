"""Where the server is, and what is used of redis-py's connections to it, none of which asks twice by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import redis
from redis.asyncio import ConnectionPool
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer, PythonRespSerializer
from redis.retry import Retry
from redis.utils import HIREDIS_AVAILABLE

from ...address import Address

__all__ = ["Blocking", "Connection", "Door", "packed"]


class Connection(Protocol):
    """One for an event loop."""

    async def connect(self) -> None:
        """Connect, with the address's user and database."""
        ...

    async def disconnect(self, *, nowait: bool = False) -> None:
        """Hang up."""
        ...

    async def send_packed_command(self, command: Sequence[bytes], *, check_health: bool = True) -> None:
        """Send."""
        ...

    async def read_response(self, *, disable_decoding: bool = False, timeout: float | None = None) -> Any:
        """The next reply; raises those that are errors."""
        ...


class Blocking(Protocol):
    """One for a thread."""

    def disconnect(self) -> None:
        """Hang up."""
        ...

    def send_command(self, *args: Any, check_health: bool = True) -> None:
        """Connect if need be, and send."""
        ...

    def read_response(self, *, disable_decoding: bool = False) -> Any:
        """The next reply; raises those that are errors."""
        ...


class Door:
    """Makes connections to one address."""

    def __init__(self, address: Address, patience: float) -> None:
        self.address = address
        self.patience = patience
        url, _, query = address.url.partition("?")
        kept = "&".join(part for part in query.split("&") if part and not part.startswith("timeout="))
        self._url = f"{url}?{kept}" if kept else url

    def connection(self) -> Connection:
        """A new one, not yet connected, for an event loop."""
        pool: Any = ConnectionPool.from_url(self._url, protocol=2, socket_timeout=None, **self._options())
        return cast(Connection, pool.make_connection())

    def blocking(self) -> Blocking:
        """A new one, not yet connected, for a thread."""
        pool: Any = redis.ConnectionPool.from_url(
            self._url, protocol=2, socket_timeout=self.patience, **self._options()
        )
        return cast(Blocking, pool.make_connection())

    def _options(self) -> dict[str, Any]:
        never_again: Any = Retry(NoBackoff(), 0)
        return {"socket_connect_timeout": self.patience, "retry": never_again, "decode_responses": False}

    def __str__(self) -> str:
        return str(self.address)


def _encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


# The connections for event loops pack in Python even where hiredis is there, which takes five times as long.
_serializer: Any = HiredisRespSerializer() if HIREDIS_AVAILABLE else PythonRespSerializer(6000, _encoded)


def packed(command: Sequence[Any]) -> Sequence[bytes]:
    """A command as it is sent."""
    return cast(Sequence[bytes], _serializer.pack(*command))
