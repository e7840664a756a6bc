"""postbus on Redis Streams or Valkey: one stream for each topic, one consumer group for each subscription.

`doors`, `door`, `clients`, `sentinel` and `slots` are the way to servers; `line`, `cluster` and `hotline` the
connections, `bell` and `shards` the doorbell, of which `site` picks; `scripts` what runs there (the `.lua` files);
`wire` is an event's written form, `registry` who wants what, and `office` keeps that; `appending`, `replicas`,
`claiming`, `settling`, `renewing` and `trimming` are the road; `desk`, `shelf`, `letters` and `examining` show it.
"""

from __future__ import annotations

from ...address import Address, Settings
from ...errors import ConfigError
from .clients import using
from .doors import door_of
from .replicas import Replicas
from .road import RedisTransport, Terms

__all__ = ["RedisTransport", "connect", "using"]


def connect(address: Address, settings: Settings) -> RedisTransport:
    """Return the transport of a `redis://`, `rediss://` (TLS) or `unix://` URL, or one with `+sentinel` or `+cluster`.

    Options: `timeout` is for how many seconds an answer is waited for (5); `db` and `ssl_*` are redis-py's.
    `wait_replicas=n` accepts an event only when n replicas have it, with `wait_disk=true` only when they and the server
    have it on disk.  `strict=true` refuses to open a server that may lose what it accepted: see `postbus doctor`.

    Raises:
        ConfigError: when an option is unknown or makes no sense.
    """
    if "/" in settings.namespace:
        raise ConfigError(f"namespace {settings.namespace!r} holds a '/', which ends it in the keys of Redis")
    return RedisTransport(door_of(address), settings, _terms(address))


def _terms(address: Address) -> Terms:
    count = address.option("wait_replicas", "number", 0)
    if not isinstance(count, int) or count < 0:
        raise ConfigError(f"option wait_replicas={count!r} of {address}: expected a number of replicas from 0")
    return Terms(Replicas(count, _flag(address, "wait_disk")), _flag(address, "strict"))


def _flag(address: Address, name: str) -> bool:
    value = address.options.get(name, "false")
    if value not in ("true", "false"):
        raise ConfigError(f"option {name}={value!r} of {address}: expected true or false")
    return value == "true"
