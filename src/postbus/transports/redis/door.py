"""Where a server is, and what is used of redis-py's connections to it, none of which asks twice by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import hiredis
import redis
from redis.asyncio import connection as for_loops
from redis.asyncio.retry import Retry as LoopRetry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from ...errors import AccessRefused, TransportError
from .trust import distrusted, unexplained

__all__ = [
    "Blocking",
    "Connection",
    "Door",
    "Entrance",
    "Kind",
    "Recipe",
    "Unreachable",
    "demoted",
    "hang_up",
    "packed",
    "unwelcome",
    "wire_of",
]

Kind = Literal["tcp", "tls", "unix"]

# Of the patience: so that this is heard before whoever waits gives up.
_SHARE = 0.9

_LOOPS: Mapping[Kind, Any] = {
    "tcp": for_loops.Connection,
    "tls": for_loops.SSLConnection,
    "unix": for_loops.UnixDomainSocketConnection,
}
_THREADS: Mapping[Kind, Any] = {
    "tcp": redis.Connection,
    "tls": redis.SSLConnection,
    "unix": redis.UnixDomainSocketConnection,
}


class Unreachable(TransportError):
    """Nothing was sent."""


class Connection(Protocol):
    """One for an event loop."""

    async def connect(self) -> None:
        """Connect, with the address's user and database."""
        ...

    async def disconnect(self, *, nowait: bool = False) -> None:
        """Hang up."""
        ...

    async def send_packed_command(self, command: bytes, *, check_health: bool = True) -> None:
        """Send."""
        ...

    async def read_response(self, *, disable_decoding: bool = False, timeout: float | None = None) -> Any:
        """The next reply, or None where none came in time; raises those that are errors."""
        ...


class Blocking(Protocol):
    """One for a thread."""

    def connect(self) -> None:
        """Connect, with the address's user and database."""
        ...

    def disconnect(self) -> None:
        """Hang up."""
        ...

    def send_command(self, *args: Any, check_health: bool = True) -> None:
        """Send."""
        ...

    def read_response(self, *, disable_decoding: bool = False) -> Any:
        """The next reply; raises those that are errors."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """How connections are made: of which kind, what redis-py is told, and for how many seconds they are waited for."""

    kind: Kind
    told: Mapping[str, Any]
    patience: float

    def at(self, host: str, port: int) -> Recipe:
        """The same, to another server."""
        return Recipe(self.kind, {**self.told, "host": host, "port": port}, self.patience)

    def connection(self) -> Connection:
        """A new one, not yet connected, for an event loop."""
        retry = LoopRetry(NoBackoff(), 0)
        return cast(Connection, _LOOPS[self.kind](**self._told(), socket_timeout=None, retry=retry))

    def blocking(self) -> Blocking:
        """A new one, not yet connected, for a thread."""
        retry = Retry(NoBackoff(), 0)
        return cast(Blocking, _THREADS[self.kind](**self._told(), socket_timeout=self.patience, retry=retry))

    def _told(self) -> dict[str, Any]:
        return {**self.told, "protocol": 2, "decode_responses": False, "socket_connect_timeout": self.patience}


class Door(Protocol):
    """The way to a server: made anew for each connection, it may lead to another one than before."""

    @property
    def patience(self) -> float:
        """Seconds for which an answer or a connection is waited for."""
        ...

    async def connect(self) -> Connection:
        """A new connection for an event loop.

        Raises:
            Unreachable: when there is none to be had.
            AccessRefused: when the server refuses the user, password or database.
        """
        ...

    def connect_blocking(self) -> Blocking:
        """A new connection for a thread; raises as `connect` does."""
        ...

    def __str__(self) -> str:
        """For people, without its secrets."""
        ...


class Entrance:
    """The door of one server at one address."""

    def __init__(self, recipe: Recipe, name: str) -> None:
        self._recipe = recipe
        self._name = name

    @property
    def patience(self) -> float:
        """See `Door.patience`."""
        return self._recipe.patience

    async def connect(self) -> Connection:
        """See `Door.connect`."""
        connection = self._recipe.connection()
        try:
            async with asyncio.timeout(self.patience * _SHARE):
                await connection.connect()
        except TimeoutError:
            await hang_up(connection)
            hint = ": does it speak TLS at that port, or should it be redis://?" if self._recipe.kind == "tls" else ""
            raise Unreachable(f"{self} could not be reached within {self.patience:g} s{hint}") from None
        except (RedisError, OSError) as error:
            await hang_up(connection)
            raise unwelcome(error, self) from error
        except BaseException:
            await hang_up(connection)
            raise
        return connection

    def connect_blocking(self) -> Blocking:
        """See `Door.connect_blocking`."""
        connection = self._recipe.blocking()
        try:
            connection.connect()
        except (RedisError, OSError) as error:
            connection.disconnect()
            raise unwelcome(error, self) from error
        return connection

    @property
    def host(self) -> str:
        """The server's host."""
        return str(self._recipe.told.get("host", "localhost"))

    def __str__(self) -> str:
        return self._name


def unwelcome(error: Exception, place: object) -> TransportError:
    """What it means that a connection could not be made."""
    if isinstance(error, AuthenticationError | NoPermissionError):
        return AccessRefused(f"{place} refuses this user or password: {error}")
    if isinstance(error, ResponseError) and "DB index" in str(error):
        return AccessRefused(f"{place} has no such database: {error}")
    return distrusted(error, place) or Unreachable(f"{place} cannot be reached: {error}{unexplained(error, place)}")


def demoted(error: object) -> bool:
    """Whether a server says that it is a replica, which takes no writes: the door leads elsewhere by now."""
    # Before Redis 7 a script's error has the reason in its text.
    return isinstance(error, ReadOnlyError) or (isinstance(error, ResponseError) and "-READONLY " in str(error)[:300])


def wire_of(connection: Connection) -> asyncio.Transport:
    """What redis-py speaks through, for one who speaks by himself from now on: nothing may be under way."""
    writer: asyncio.StreamWriter = cast(Any, connection)._writer  # noqa: SLF001 - redis-py has no public name for it
    return cast(asyncio.Transport, writer.transport)


async def hang_up(connection: Connection) -> None:
    """Close a connection of which nothing more is wanted, now.

    A TLS connection takes leave of the server first: where the loop ends meanwhile, its socket would stay open.
    """
    if cast(Any, connection).is_connected:
        wire_of(connection).abort()
    await connection.disconnect(nowait=True)


# A command as it is sent.  The connections for event loops pack in Python even where hiredis is there, which takes five
# times as long.
packed = cast(Callable[[Sequence[Any]], bytes], hiredis.pack_command)
