"""Carries events within one process: bounded, without a server, gone with the process.

`road` owns the lock, `bells` who waits; `store` decides who gets an event, `queue` and `keys` which delivery may go;
`ids` remembers, `desk` shows and mends.
"""

from __future__ import annotations

from ...address import Address, Settings
from ...errors import ConfigError
from .road import MemoryTransport

__all__ = ["MemoryTransport", "connect"]

_MAXSIZE = 10_000


def connect(address: Address, settings: Settings) -> MemoryTransport:
    """Return a new, empty transport: `memory://?maxsize=10000&codec=msgpack`, both optional.

    Each call makes a store of its own.  `maxsize` bounds the unfinished deliveries, dead letters aside: while so many
    are stored, appends wait, then are refused.  A batch is never split, so the last one may pass the bound.
    With `codec`, which is the bus's to read, events travel as bytes; without, the objects themselves do.

    Raises:
        ConfigError: for an unknown option, or a bound below 1.
    """
    address.only("codec", "maxsize")
    maxsize = address.option("maxsize", "number", _MAXSIZE)
    if not isinstance(maxsize, int) or maxsize < 1:
        raise ConfigError(f"option maxsize={maxsize!r} of {address}: expected a whole number from 1")
    return MemoryTransport(settings, maxsize=maxsize, objects="codec" not in address.options)
