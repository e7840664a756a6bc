"""From a URL to a door.  Each scheme has options of its own; whatever is not known is refused."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from redis.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from ...address import Address
from ...errors import ConfigError
from .clients import recipe_of
from .door import Door, Entrance, Kind, Recipe
from .sentinel import Sentinels
from .slots import Slots

__all__ = ["door_of"]

# Of redis-py's own URL options those that say where the server is and how it is trusted.
_PASSED = (
    "db",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
)
# How the server is used; see `connect`.
_OURS = ("strict", "timeout", "wait_disk", "wait_replicas")
_SENTINEL = ("sentinel_password", "sentinel_username", "service")
_PATIENCE = 5.0
_PORT = 6379
_SENTINEL_PORT = 26379


def door_of(address: Address) -> Door:
    """Where the URL leads.

    Raises:
        ConfigError: when an option is unknown or makes no sense.
    """
    if address.client is not None:
        return Entrance(recipe_of(address.client), str(address))
    _, _, many = address.scheme.partition("+")
    if many == "sentinel":
        return _sentinels(address)
    if many == "cluster":
        return _cluster(address)
    address.only(*_OURS, *_PASSED)
    return Entrance(_recipe(address), str(address))


def _sentinels(address: Address) -> Sentinels:
    address.only(*_OURS, *_PASSED, *_SENTINEL)
    service = address.options.get("service")
    if not service:
        raise ConfigError(f"{address} names no service: add ?service=mymaster, as the sentinels call it")
    recipe = _recipe(address)
    told = {name: value for name, value in recipe.told.items() if name.startswith("ssl_")}
    for name in ("username", "password"):
        if f"sentinel_{name}" in address.options:
            told[name] = address.options[f"sentinel_{name}"]
    watcher = Recipe(recipe.kind, told, recipe.patience)
    watchers = [watcher.at(host, port) for host, port in _hosts(address, _SENTINEL_PORT)]
    return Sentinels(watchers, service, recipe, f"{address} ({service})")


def _cluster(address: Address) -> Slots:
    address.only("timeout", *_PASSED)
    recipe = _recipe(address)
    if recipe.told.get("db"):
        raise ConfigError(f"{address} asks for database {recipe.told['db']}: a cluster has only 0")
    return Slots(_hosts(address, _PORT), recipe, str(address))


def _hosts(address: Address, port: int) -> list[tuple[str, int]]:
    """The hosts of a URL that names several, each with its port."""
    found = []
    for place in _authority(address)[1].split(","):
        try:
            parts = urlsplit(f"//{place}")
            found.append((parts.hostname or "", parts.port or port))
        except ValueError as error:
            raise ConfigError(f"{address} names the host {place!r}: {error}") from error
        if not parts.hostname:
            raise ConfigError(f"{address} names no host where one was expected: host:port,host:port")
    return found


def _authority(address: Address) -> tuple[str, str]:
    """User and password with the @ behind them, and the hosts."""
    authority = address.rest.removeprefix("//").partition("/")[0]
    user, at, hosts = authority.rpartition("@")
    return f"{user}{at}", hosts


def _recipe(address: Address) -> Recipe:
    """What a URL says of its server; the first, where it names several."""
    patience = address.option("timeout", "span", _PATIENCE)
    if not isinstance(patience, float) or not 0 < patience < float("inf"):
        raise ConfigError(f"option timeout={patience!r} of {address}: expected seconds above 0")
    start, _, query = address.url.partition("?")
    scheme, _, many = address.scheme.partition("+")
    if many:
        user, hosts = _authority(address)
        start = f"{scheme}://{user}{hosts.partition(',')[0]}/{address.path}"
    kept = "&".join(part for part in query.split("&") if part.partition("=")[0] in _PASSED)
    if scheme != "unix" and address.path and not address.path.isdigit():
        raise ConfigError(f"{address} ends in {address.path!r}: expected the number of a database, such as 0")
    parse: Any = parse_url
    try:
        told = parse(f"{start}?{kept}" if kept else start)
    except ValueError as error:
        raise ConfigError(f"{address} is no address of a Redis server: {error}") from error
    made_by = told.pop("connection_class", None)
    kind: Kind = "tls" if made_by is SSLConnection else "unix" if made_by is UnixDomainSocketConnection else "tcp"
    return Recipe(kind, {"socket_keepalive": True, **told} if kind != "unix" else told, patience)
