"""Django: publishes in `transaction.atomic()`, follows its commits, and gives transactional subscribers an alias.

As an application, `INSTALLED_APPS = [..., "postbus.integrations.django"]`, it brings `manage.py postbus`, finds the
handlers of every application, checks, and shows dead letters in the admin.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from django.db import close_old_connections, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionDoesNotExist

from ...adapters import Source
from ...errors import ConfigError
from ...middleware import around_thread
from ...transaction import Followers, Pending, Tx

__all__ = ["database_url", "source_of", "tidy_connections", "transaction_of"]


def transaction_of(given: Any) -> Tx | None:
    """The transaction on the database of that alias, or of that connection, in this thread."""
    if isinstance(given, BaseDatabaseWrapper):
        return _Tx(given.alias, given)
    return _Tx(given, given) if isinstance(given, str) else None


def source_of(given: Any) -> Source | None:
    """What lends an alias for one run."""
    if not isinstance(given, str):
        return None
    _connection(given)
    return Source(lambda: _lent(given), asynchronous=False)


@around_thread
def tidy_connections() -> Iterator[None]:
    """Middleware that treats this thread's connections around each `def` subscriber as Django does around a request.

    Those that broke, or are older than CONN_MAX_AGE, are closed.
    """
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


def database_url(alias: str = "default") -> str:
    """The URL of a bus in the database of that alias, as DATABASES has it.

    Raises:
        ConfigError: when there is no such alias, or its database is neither PostgreSQL nor SQLite.
    """
    connection = _connection(alias)
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{settings['NAME']}"
    if connection.vendor != "postgresql":
        raise ConfigError(
            f"the database {alias!r} is {connection.display_name}: expected PostgreSQL or SQLite; with another, "
            f"publish to a transport of its own, such as redis://"
        )
    user, password = (quote(str(settings.get(name) or ""), safe="") for name in ("USER", "PASSWORD"))
    login = f"{user}:{password}@" if password else f"{user}@" if user else ""
    host, port = settings.get("HOST") or "", settings.get("PORT") or ""
    socket = f"?host={quote(host, safe='')}" if host.startswith("/") else ""
    place = f"{'' if socket else host}{f':{port}' if port else ''}"
    return f"postgresql://{login}{place}/{quote(str(settings['NAME']), safe='')}{socket}"


def _connection(alias: str) -> Any:
    try:
        return connections[alias]
    except ConnectionDoesNotExist as error:
        raise ConfigError(f"DATABASES has no {alias!r}: expected one of {', '.join(sorted(connections))}") from error


@contextmanager
def _lent(alias: str) -> Iterator[str]:
    close_old_connections()
    try:
        yield alias
    finally:
        close_old_connections()


class _Tx:
    """`transaction.atomic()` on one database, in this thread."""

    asynchronous = False

    def __init__(self, alias: str, given: Any) -> None:
        self.given = given
        self._alias = alias
        self._atomic: Any = None

    def raw(self) -> Any:
        connection = _connection(self._alias)
        if not connection.in_atomic_block:
            raise ConfigError(
                f"within={self._alias!r}, and this thread has no transaction open there: publish inside `with "
                f"transaction.atomic(using={self._alias!r})`"
            )
        return connection.connection

    def pending(self, followers: Followers) -> Pending | None:
        """One for each level of savepoints: Django drops what waits for its commit together with a savepoint."""
        connection = _connection(self._alias)
        level = set(connection.savepoint_ids)
        for savepoints, hook, *_ in connection.run_on_commit:
            if isinstance(hook, _Committed) and hook.followers is followers and savepoints == level:
                return hook.pending
        hook = _Committed(followers)
        transaction.on_commit(hook, using=self._alias, robust=True)
        return hook.pending

    def begin(self) -> None:
        self._atomic = transaction.atomic(using=self._alias)
        self._atomic.__enter__()

    def commit(self) -> None:
        self._atomic.__exit__(None, None, None)

    def rollback(self) -> None:
        error = RuntimeError("rolled back")
        self._atomic.__exit__(type(error), error, None)

    def discard(self) -> None:
        _connection(self._alias).close()


class _Committed:
    """Waits among Django's own hooks, which are where a later publish of the same level finds it."""

    def __init__(self, followers: Followers) -> None:
        self.followers = followers
        self.pending = Pending(followers)

    def __call__(self) -> None:
        self.pending.committed()
