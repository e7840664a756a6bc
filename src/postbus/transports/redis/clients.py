"""From a client of redis-py's that a program has made: where it connects to, and as whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import redis
from redis import asyncio as aredis
from redis.asyncio import connection as for_loops

from ...address import Address
from ...errors import ConfigError
from .door import Kind, Recipe

__all__ = ["Client", "recipe_of", "using"]

Client: TypeAlias = "redis.Redis | aredis.Redis"

# What of a client's settings is about the server, and not about how the client speaks with it.
_KEPT = (
    "client_name",
    "credential_provider",
    "db",
    "driver_info",
    "host",
    "password",
    "path",
    "port",
    "socket_keepalive",
    "socket_keepalive_options",
    "socket_type",
    "username",
)
# Classes by kind; each stands before those it is derived from.
_KINDS: tuple[tuple[Kind, tuple[Any, ...]], ...] = (
    ("unix", (for_loops.UnixDomainSocketConnection, redis.UnixDomainSocketConnection)),
    ("tls", (for_loops.SSLConnection, redis.SSLConnection)),
    ("tcp", (for_loops.Connection, redis.Connection)),
)
_PATIENCE = 5.0


def using(client: Client) -> Address:
    """Return what `Bus(...)` takes for a URL, from a client that the program has made: `Bus(using(client))`.

    The bus connects as the client does: address, database, user, password or credential provider, and TLS.  It makes
    connections of its own, for event loops and threads alike; the client's pool, retries and decoding stay the
    client's, and so does the task of closing it.

    Args:
        client: a `redis.asyncio.Redis` or a `redis.Redis`.

    Raises:
        ConfigError: when it is something else, or connects by a class of its own.
    """
    if not isinstance(client, redis.Redis | aredis.Redis):
        raise ConfigError(f"{type(client).__name__} is no client to connect by: expected redis.asyncio.Redis")
    recipe = recipe_of(client)
    told = recipe.told
    place = told["path"] if recipe.kind == "unix" else f"{told.get('host', 'localhost')}:{told.get('port', 6379)}"
    scheme = {"unix": "unix", "tls": "rediss", "tcp": "redis"}[recipe.kind]
    suffix = "" if recipe.kind == "unix" else f"/{told.get('db') or 0}"
    return replace(Address.parse(f"{scheme}://{place}{suffix}"), client=client)


def recipe_of(client: Any) -> Recipe:
    """How the client makes its connections.

    Raises:
        ConfigError: when that is by a class of its own, which only the client knows.
    """
    pool = client.connection_pool
    made_by: type = pool.connection_class
    told: Mapping[str, Any] = pool.connection_kwargs
    own = [name for name in told if told[name] and (name == "redis_connect_func" or "_ocsp" in name)]
    for kind, classes in _KINDS:
        if made_by in classes and not own:
            kept = {
                name: value
                for name, value in told.items()
                if name in _KEPT or (name.startswith("ssl_") and "_ocsp" not in name)
            }
            return Recipe(kind, kept, told.get("socket_timeout") or _PATIENCE)
    way = ", ".join(own) or f"{made_by.__module__}.{made_by.__qualname__}"
    raise ConfigError(
        f"the client connects by {way}, which a bus cannot do: hand in one that connects plainly by TCP, TLS or a Unix "
        f"socket, or use a URL such as redis+sentinel://"
    )
