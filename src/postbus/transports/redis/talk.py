"""One connection for an event loop, from when it stands: bytes out, replies in, and no task or turn between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import InvalidResponse, RedisError

from .door import Connection, hang_up, wire_of

__all__ = ["NOTHING", "Talk", "new_reader"]

NOTHING = object()

_error_of: Callable[[str], Exception] = DefaultParser.parse_error


def new_reader() -> hiredis.Reader:
    """Makes replies of bytes that come cut anywhere; errors are replies, of redis-py's kinds."""
    return hiredis.Reader(protocolError=InvalidResponse, replyError=_error_of, notEnoughData=NOTHING)


class Talk(asyncio.Protocol):
    """A connection whose replies are handed to `hear` as they arrive, until it has `ended`, which is told once.

    What cannot be written at once waits in the connection: callers wait for their answers, and so for that.
    """

    def __init__(
        self, connection: Connection, *, hear: Callable[[Any], None], ended: Callable[[Exception], None]
    ) -> None:
        self._hear = hear
        self._ended: Callable[[Exception], None] | None = ended
        self._reader = new_reader()
        self._connection = connection
        self._wire = wire_of(connection)
        self._wire.set_protocol(self)
        self.write = self._wire.write

    def data_received(self, data: bytes) -> None:
        """Hand on what is whole."""
        reader, hear = self._reader, self._hear
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not NOTHING:
                hear(reply)
        except (RedisError, OSError) as error:
            self.end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """It broke, or the server has hung up."""
        self.end(exc or ConnectionError("the server has hung up"))

    def end(self, error: Exception) -> None:
        """Nothing that comes is heard any more."""
        ended, self._ended = self._ended, None
        if ended is not None:
            self._hear = _nothing
            ended(error)

    async def close(self) -> None:
        """Hang up."""
        self.end(ConnectionError("it was closed"))
        await hang_up(self._connection)


def _nothing(_: Any) -> None:
    """Nobody listens any more."""
