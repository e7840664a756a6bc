"""postbus on PostgreSQL: a schema of its own, an event row once and a delivery row for each subscription.

`schema` makes the tables and the functions (the `.sql` files); `line` owns the connections, `wire` an event's written
form, `routing` who takes what; `appending`, `claiming`, `settling` and `renewing` are the road, `bell` the doorbell,
`effects` transactional runs; `declaring` changes subscriptions, `reading` and `desk` show and mend, `upkeep` tidies.
"""

from __future__ import annotations

from ...address import Address, Settings
from ...errors import ConfigError
from .line import Door
from .road import PostgresTransport
from .schema import Tables

__all__ = ["PostgresTransport", "connect"]

# Of libpq's own URL options those that say where the server is and how it is trusted.
_PASSED = ("host", "sslcert", "sslkey", "sslmode", "sslrootcert", "target_session_attrs")


def connect(address: Address, settings: Settings) -> PostgresTransport:
    """Return the transport of a `postgresql://` URL, not yet open.

    Options: `timeout` is for how many seconds an answer is waited for (5); `pool` is the most connections of this
    process for its work (8), and `transactions` for transactional subscribers (20); `prepare=off` and `listen=off` are
    for a pooler in transaction mode; the others are libpq's.

    Raises:
        ConfigError: when an option is unknown or makes no sense.
    """
    address.only("timeout", "pool", "transactions", "prepare", "listen", *_PASSED)
    patience = address.option("timeout", "span", 5.0)
    if not isinstance(patience, float) or not 0 < patience < float("inf"):
        raise ConfigError(f"option timeout={patience!r} of {address}: expected seconds above 0")
    door = Door(
        address,
        patience=patience,
        size=_count(address, "pool", 8, least=2),
        transactions=_count(address, "transactions", 20, least=1),
        prepare=_switch(address, "prepare"),
        passed=_PASSED,
    )
    return PostgresTransport(door, Tables(settings.namespace), settings, listen=_switch(address, "listen"))


def _count(address: Address, name: str, default: int, *, least: int) -> int:
    value = address.option(name, "number", default)
    if not isinstance(value, int) or not least <= value <= 1000:
        raise ConfigError(f"option {name}={value!r} of {address}: expected a number from {least} to 1000")
    return value


def _switch(address: Address, name: str) -> bool:
    value = address.option(name, "text", "on")
    if value not in ("on", "off"):
        raise ConfigError(f"option {name}={value!r} of {address}: expected 'on' or 'off'")
    return value == "on"
