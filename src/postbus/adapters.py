"""From what users hand over as `within=` and `transactions=` to the transactions behind it, by table.

Imports an integration only when something of its framework is handed over.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from .drivers import driver_of
from .errors import ConfigError
from .transaction import RawTx, Transaction, Tx

__all__ = ["Adapter", "Source", "source_of", "transaction_of"]

# The package that something is of -> the integration that knows it, and the extra that brings what that imports.
# A text names one of Django's databases.
_INTEGRATIONS = MappingProxyType(
    {
        "sqlalchemy": ("postbus.integrations.sqlalchemy", "sqlalchemy"),
        "django": ("postbus.integrations.django", "django"),
    }
)

# The class of a pool -> what gives a connection of it, and whether that is awaited.
_POOLS = MappingProxyType(
    {
        ("psycopg_pool", "ConnectionPool"): ("connection", False),
        ("psycopg_pool", "AsyncConnectionPool"): ("connection", True),
        ("asyncpg", "Pool"): ("acquire", True),
    }
)

_KNOWN = (
    "a connection of psycopg, asyncpg, sqlite3 or aiosqlite, a Session, AsyncSession, Connection or AsyncConnection of "
    "SQLAlchemy, the name of a Django database, or bus.transaction(connection)"
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where transactional subscribers get what their transaction happens on.

    Attributes:
        open: returns a context manager that gives it, with no transaction begun.
        asynchronous: whether that is entered with `async with`; None where only opening it tells.
    """

    open: Callable[[], Any]
    asynchronous: bool | None


class Adapter(Protocol):
    """What an integration module offers."""

    def transaction_of(self, given: Any) -> Tx | None:
        """The transaction behind something of its framework; None where there is none."""
        ...

    def source_of(self, given: Any) -> Source | None:
        """What opens transactions, of something of its framework; None where it does not."""
        ...


def transaction_of(given: Any) -> Tx:
    """The transaction that `within=` names.

    Raises:
        ConfigError: when nobody knows how to write in it.
    """
    if isinstance(given, Transaction):
        return given.enlisted()
    driver = driver_of(given)
    if driver is not None:
        return RawTx(given, driver)
    adapter = _adapter(given)
    found = None if adapter is None else adapter.transaction_of(given)
    if found is None:
        raise ConfigError(f"within= was given a {type(given).__qualname__}: expected {_KNOWN}")
    return found


def source_of(given: Any) -> Source:
    """What `Bus(transactions=...)` names.

    Raises:
        ConfigError: when it opens no transactions.
    """
    for base in type(given).__mro__:
        pool = _POOLS.get((base.__module__.partition(".")[0], base.__name__))
        if pool is not None:
            return Source(getattr(given, pool[0]), pool[1])
    adapter = _adapter(given)
    found = None if adapter is None else adapter.source_of(given)
    if found is not None:
        return found
    if callable(given):
        return Source(given, None)
    raise ConfigError(
        f"transactions= was given a {type(given).__qualname__}: expected a sessionmaker or async_sessionmaker, a "
        f"pool of psycopg_pool or asyncpg, the name of a Django database, or a function that returns a context manager "
        f"around a connection or session"
    )


def _adapter(given: Any) -> Adapter | None:
    place = _INTEGRATIONS["django"] if isinstance(given, str) else _place(type(given))
    if place is None:
        return None
    module, extra = place
    try:
        adapter: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{given!r} as a transaction needs {error.name}, which is not installed: pip install 'postbus[{extra}]'"
        ) from error
    return adapter  # type: ignore[no-any-return]


def _place(kind: type[Any]) -> tuple[str, str] | None:
    packages = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((_INTEGRATIONS[package] for package in packages if package in _INTEGRATIONS), None)
