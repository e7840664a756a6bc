"""What a transport in a database offers beside the road: to be written inside somebody's transaction, and to remember.

Publishing inside a transaction needs `Enlisting`; subscribers that react once need one of the others.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, Literal, Protocol, runtime_checkable
from uuid import UUID

from .delivery import Delivery
from .drivers import Script
from .transport import Append, Duplicate, Outgoing, Settle

__all__ = ["AsyncTransacting", "Enlisting", "Marking", "Remembering", "Transacting"]


@runtime_checkable
class Enlisting(Protocol):
    """A transport whose tables can be written inside the caller's own transaction.

    What is done there is a script, so that it runs on whichever client's connection the caller has; see `drivers`.
    """

    @property
    def dialect(self) -> Literal["postgresql", "sqlite"]:
        """Which connections its scripts are for."""
        ...

    def append_within(self, items: Sequence[Outgoing]) -> Script[Sequence[Append]]:
        """As `Transport.append`, inside the transaction that is open on the connection, which is left open.

        Raises:
            ConfigError: in the script, when the connection is to another database than the tables.
        """
        ...

    def surviving(self, ids: Sequence[bytes]) -> Script[Set[bytes]]:
        """Which of the events appended in this open transaction no savepoint has rolled back."""
        ...

    def committed(self, items: Sequence[Outgoing]) -> None:
        """Hear, from any thread, that these were committed: a hint for who waits for work."""
        ...


@runtime_checkable
class Marking(Enlisting, Protocol):
    """One that can settle a delivery of its own inside the caller's transaction."""

    def holds(self) -> Script[bool]:
        """Whether the connection is to the database with its tables.  Breaks no transaction."""
        ...

    def begin_within(self, delivery: Delivery) -> Script[Settle | Duplicate]:
        """At the start of a run's transaction: as `Transacting.done_within`."""
        ...

    def end_within(self, delivery: Delivery, *, repeated: bool) -> Script[Settle]:
        """Just before its commit: settle and mark, where `begin_within` has not; `LeaseLost` forbids the commit."""
        ...


@runtime_checkable
class Transacting(Protocol):
    """A transport in a database that subscribers may write to: their effects and the done mark commit together."""

    def connect(self) -> Any:
        """A new connection for one run, with no transaction begun."""
        ...

    def try_begin(self, connection: Any) -> bool:
        """Begin a transaction that may write; False while somebody else writes.  Never blocks for long."""
        ...

    def done_within(self, connection: Any, delivery: Delivery) -> Settle | Duplicate:
        """Inside that transaction: check the lease, settle the delivery as done, and mark (event, subscription).

        `Duplicate` when the mark was there already: its effects happened before, and the delivery is settled with the
        commit.  `LeaseLost` when the delivery is no longer this owner's: nothing was done.  Marks are kept for 7 days.
        Where others would have to wait for what is written here, `end` writes it.
        """
        ...

    def end(self, connection: Any, *, commit: bool) -> None:
        """Commit or roll back what `try_begin` began, and let go of the connection.

        Raises:
            LeaseLost: when the delivery was given to somebody else meanwhile: nothing is kept.
        """
        ...


@runtime_checkable
class Remembering(Protocol):
    """Whoever keeps the done marks of transactional subscribers."""

    async def done(self, subscription: str, ids: Sequence[UUID]) -> Set[UUID]:
        """Which of these events are marked as done for the subscription."""
        ...

    async def forget(self, subscription: str, ids: Sequence[UUID]) -> None:
        """Take marks away, so that these may be done again."""
        ...


@runtime_checkable
class AsyncTransacting(Protocol):
    """A `Transacting` transport whose client library has connections for event loops."""

    async def begin_async(self, delivery: Delivery) -> tuple[Any, Settle | Duplicate]:
        """As `connect`, `try_begin` and `done_within` of `Transacting`; the answer says how `done_within` went."""
        ...

    async def end_async(self, connection: Any, *, commit: bool) -> None:
        """As `Transacting.end`."""
        ...
