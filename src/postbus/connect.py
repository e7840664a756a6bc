"""From a URL to a transport, by table.  Imports a transport only when its scheme is asked for."""

from __future__ import annotations

import importlib
from types import MappingProxyType

from .address import Address, Settings
from .errors import ConfigError
from .transport import Transport

__all__ = ["SCHEMES", "connect"]

# scheme -> (module, the extra that brings what it imports, or None)
SCHEMES = MappingProxyType(
    {
        "memory": ("postbus.transports.memory", None),
        "postgres": ("postbus.transports.postgres", "postgres"),
        "postgresql": ("postbus.transports.postgres", "postgres"),
        "redis": ("postbus.transports.redis", "redis"),
        "redis+cluster": ("postbus.transports.redis", "redis"),
        "redis+sentinel": ("postbus.transports.redis", "redis"),
        "rediss": ("postbus.transports.redis", "redis"),
        "rediss+cluster": ("postbus.transports.redis", "redis"),
        "rediss+sentinel": ("postbus.transports.redis", "redis"),
        "sqlite": ("postbus.transports.sqlite", None),
        "unix": ("postbus.transports.redis", "redis"),
    }
)


def connect(url: str | Address, settings: Settings) -> Transport:
    """Return the transport that `url` names, not yet open.

    Raises:
        ConfigError: when the scheme or an option is unknown, or its extra is not installed.
    """
    address = Address.parse(url)
    try:
        module, extra = SCHEMES[address.scheme]
    except KeyError:
        known = ", ".join(f"{scheme}://" for scheme in sorted(SCHEMES))
        raise ConfigError(f"{address} has the unknown scheme {address.scheme!r}: expected one of {known}") from None
    try:
        room = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("postbus"):
            raise
        raise ConfigError(
            f"{address.scheme}:// needs {error.name}, which is not installed: pip install 'postbus[{extra}]'"
        ) from error
    transport: Transport = room.connect(address, settings)
    return transport
