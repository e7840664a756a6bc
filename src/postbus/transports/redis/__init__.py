"""postbus on Redis Streams or Valkey: one stream for each topic, one consumer group for each subscription.

`door` and `line` own the connection, `scripts` what runs on the server (the `.lua` files); `wire` is an event's written
form, `registry` who wants what, and `office` keeps that; `appending`, `claiming`, `settling`, `renewing` and `trimming`
are the road, `bell` the doorbell; `desk`, `shelf` and `letters` show and mend.
"""

from __future__ import annotations

from ...address import Address, Settings
from ...errors import ConfigError
from .door import Door
from .road import RedisTransport

__all__ = ["RedisTransport", "connect"]

# Of redis-py's own URL options those that say where the server is and how it is trusted.
_PASSED = (
    "db",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
)


def connect(address: Address, settings: Settings) -> RedisTransport:
    """Return the transport of a `redis://`, `rediss://` (TLS) or `unix://` URL, not yet open.

    Options: `timeout` is for how many seconds an answer is waited for (5); `db` and `ssl_*` are redis-py's.

    Raises:
        ConfigError: when an option is unknown or makes no sense.
    """
    address.only("timeout", *_PASSED)
    patience = address.option("timeout", "span", 5.0)
    if not isinstance(patience, float) or not 0 < patience < float("inf"):
        raise ConfigError(f"option timeout={patience!r} of {address}: expected seconds above 0")
    if "/" in settings.namespace:
        raise ConfigError(f"namespace {settings.namespace!r} holds a '/', which ends it in the keys of Redis")
    return RedisTransport(Door(address, patience), settings)
