"""postbus on one SQLite file: no server, every guarantee.  From the URL to the transport."""

from __future__ import annotations

from pathlib import Path

from ...address import Address, Settings
from ...errors import ConfigError
from .road import SqliteTransport

__all__ = ["SqliteTransport", "connect"]

_SYNCHRONOUS = {"disk": "FULL", "os": "NORMAL"}


def connect(address: Address, settings: Settings) -> SqliteTransport:
    """Return the transport of a `sqlite:///path` URL, not yet open.

    Options: `durability` is 'disk' (the default: what is accepted survives a power loss) or 'os' (a killed process);
    `busy_timeout` is for how many seconds another connection's write lock is waited for; `force=1` allows a network
    file system.

    Raises:
        ConfigError: when the path is missing or no file's, or an option is unknown or makes no sense.
    """
    address.only("durability", "busy_timeout", "force")
    if not address.rest.startswith("///") or not address.path or address.path.startswith(":memory:"):
        raise ConfigError(
            f"{address} names no file: expected sqlite:///shop.db, or sqlite:////var/lib/shop.db from the root; "
            f"for events that need not outlive the process use memory://"
        )
    durability = address.option("durability", "text", "disk")
    if durability not in _SYNCHRONOUS:
        raise ConfigError(f"option durability={durability!r} of {address}: expected 'disk' or 'os'")
    force = address.option("force", "text", "0")
    if force not in ("0", "1"):
        raise ConfigError(f"option force={force!r} of {address}: expected 0 or 1")
    patience = address.option("busy_timeout", "span", 5.0)
    if not isinstance(patience, float) or not 0 <= patience < float("inf"):
        raise ConfigError(f"option busy_timeout={patience!r} of {address}: expected seconds from 0")
    return SqliteTransport(
        Path(address.path).absolute(),  # the working directory may change before it is opened
        settings,
        synchronous=_SYNCHRONOUS[str(durability)],
        patience=patience,
        network=force == "1",
    )
