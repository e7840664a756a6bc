"""The servers that the fault tests of servers and networks run on, and what differs between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from postbus.transports.redis.scripts import ACK, APPEND, CLAIM
from redis_servers import RedisWith
from server_kinds import Kind, PostgresKind, RedisKind
from servers import Server, own

__all__ = ["GROUNDS", "Ground", "at", "grounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One kind of server.

    Attributes:
        kind: keeps what it confirmed when it is killed.
        hasty: options with which an answer is waited for only a second.
        asks_again: an append whose answer was lost is sent once more: its publisher hears that it is stored.
        append, settle: bytes of the requests that do these.
        claims: the same of each way to claim.
        locked: asks for a password, which is 'canary', and a user, who is `user`.
        no_database: the path of a database that there is not.
    """

    kind: Kind
    hasty: str
    append: bytes
    claims: tuple[bytes, ...]
    settle: bytes
    locked: Kind
    user: str
    no_database: str
    asks_again: bool = False


GROUNDS: Mapping[str, Ground] = {
    "redis": Ground(
        kind=RedisKind(durable=True),
        hasty="timeout=1",
        append=APPEND.sha,
        claims=(CLAIM.sha, b"XREADGROUP"),
        settle=ACK.sha,
        locked=RedisWith(options=("--requirepass", "canary")),
        user="default",
        no_database="/99",
    ),
    "postgres": Ground(
        kind=PostgresKind(),
        hasty="timeout=1&prepare=off",  # a statement that is prepared is not sent again
        append=b".append_",  # and ring the bell behind it, or not
        claims=(b".claim(",),
        settle=b".ack(",
        locked=PostgresKind(password="canary"),
        user="postgres",
        no_database="/nowhere",
        asks_again=True,
    ),
}


def grounds(name: str) -> Iterator[tuple[Ground, Server]]:
    """Yield the kind, and a server of it that belongs to the caller."""
    ground = GROUNDS[name]
    for server in own(ground.kind):
        yield ground, server


def at(url: str, *, path: str | None = None, query: str | None = None, user: str | None = None) -> str:
    """The URL with another path, query or user."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(
        path=parts.path if path is None else path,
        query=parts.query if query is None else query,
        netloc=parts.netloc if user is None else f"{user}@{host}",
    ).geturl()
