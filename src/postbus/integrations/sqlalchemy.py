"""SQLAlchemy: publishes in the transaction of a session or connection, and follows a session's own commits.

Nothing is kept for `before_commit`: the event is written at once, so that savepoints and rollbacks take it along.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, SessionTransaction, scoped_session, sessionmaker
from sqlalchemy.util import await_only

from ..adapters import Source
from ..drivers import driver_of
from ..errors import ConfigError
from ..transaction import Followers, Pending, Tx

__all__ = ["source_of", "transaction_of"]

# Where a session keeps what waits for its commit.
_HOOKS = "postbus"


def transaction_of(given: Any) -> Tx | None:
    """The transaction behind a session or connection, also of a scoped one."""
    if isinstance(given, async_scoped_session | scoped_session):
        given = given()
    if isinstance(given, Session | Connection):
        return _Tx(given)
    return _AsyncTx(given) if isinstance(given, AsyncSession | AsyncConnection) else None


def source_of(given: Any) -> Source | None:
    """What opens sessions or connections."""
    if isinstance(given, sessionmaker):
        return Source(given, asynchronous=False)
    if isinstance(given, async_sessionmaker):
        return Source(given, asynchronous=True)
    if isinstance(given, Engine):
        return Source(given.connect, asynchronous=False)
    return Source(given.connect, asynchronous=True) if isinstance(given, AsyncEngine) else None


class _Tx:
    """That of a session or connection; what its calls return is awaited where it is for event loops."""

    asynchronous = False

    def __init__(self, given: Any) -> None:
        self.given = given

    def raw(self) -> Any:
        connection = _connection_of(self.given)
        if connection.dialect.is_async:
            raise ConfigError(
                f"within= a {type(self.given).__qualname__} whose driver {connection.dialect.driver} is awaited: give "
                f"the AsyncSession or AsyncConnection around it"
            )
        return _begun(connection)

    def pending(self, followers: Followers) -> Pending | None:
        """A connection of SQLAlchemy's tells nobody that it has committed."""
        session = getattr(self.given, "sync_session", self.given)
        return _pending(session, followers) if isinstance(session, Session) else None

    def begin(self) -> Any:
        return self.given.begin()

    def commit(self) -> Any:
        return self.given.commit()

    def rollback(self) -> Any:
        return self.given.rollback()

    def discard(self) -> Any:
        return self.given.invalidate()


class _AsyncTx(_Tx):
    asynchronous = True

    def raw(self) -> Any:
        return self.given.run_sync(lambda inner: _begun(_connection_of(inner)))


def _connection_of(given: Session | Connection) -> Connection:
    if isinstance(given, Connection):
        return given
    try:
        return given.connection()
    except InvalidRequestError as error:
        raise ConfigError(f"the session given as within= has no transaction to publish in: {error}") from error


def _begun(connection: Connection) -> Any:
    """The driver's connection, where SQLAlchemy knows that something is to be committed."""
    if not connection.in_transaction():
        connection.begin()  # as executing a statement would
    raw = connection.connection.driver_connection
    driver = driver_of(raw)
    if driver is None:
        raise ConfigError(
            f"within= a connection of {connection.dialect.name}+{connection.dialect.driver}: expected postgresql with "
            f"psycopg, asyncpg or psycopg2, or sqlite with pysqlite or aiosqlite"
        )
    if connection.dialect.driver == "asyncpg" and not driver.in_transaction(raw):
        connection.exec_driver_sql("SELECT 1")  # it begins no sooner
    return raw


# -- a session's commits


def _pending(session: Session, followers: Followers) -> Pending:
    hooks: dict[Followers, Pending] = session.info.setdefault(_HOOKS, {})
    return hooks.setdefault(followers, Pending(followers))


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    if not session.in_nested_transaction():  # it is told of savepoints too
        for pending in session.info.get(_HOOKS, {}).values():
            if pending.asynchronous:
                await_only(pending.weigh_async())
            else:
                pending.weigh()


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    if not session.in_nested_transaction():
        for pending in session.info.get(_HOOKS, {}).values():
            pending.stored = True


@event.listens_for(Session, "after_transaction_end")
def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    """The session may be used again, by the handlers as well."""
    if transaction.parent is not None:
        return
    for pending in session.info.pop(_HOOKS, {}).values():
        if pending.stored and pending.asynchronous:
            await_only(pending.committed_async())
        elif pending.stored:
            pending.committed()
