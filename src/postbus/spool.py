"""What an outbox needs of its store: to hand out what waits, in order and without leases, and to forget what was sent.

Whoever reads from the oldest on, and goes on to an event only when all earlier ones of its key are known to be stored
elsewhere, keeps the order of each key, however many do the same at once: the target knows every id it has stored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from .envelope import Envelope

__all__ = ["Spool", "Waiting"]


class Waiting(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One stored event that is to go on to another transport.

    Attributes:
        envelope: what was published.
        number: its place in the order of append.
        delay: seconds that were left of its delay, by the store's clock, when it was read.
        defect: why the row is no event; empty for a sound one.
    """

    envelope: Envelope
    number: int
    delay: float = 0.0
    defect: str = ""


@runtime_checkable
class Spool(Protocol):
    """A transport whose events can go on to another one.  Errors are as of `Transport`."""

    async def waiting(
        self, subscription: str, *, limit: int, skip: Collection[int] = (), without: Collection[tuple[str, str]] = ()
    ) -> Sequence[Waiting]:
        """The oldest events that this subscription holds, delayed ones too, in the order of append.

        An event whose transaction was slow to commit is among the oldest as soon as it is seen.  Nothing is leased, and
        nothing changes.  A paused subscription gives nothing.

        Args:
            subscription: the only one of its store.
            limit: at most so many.
            skip: numbers that the caller has already.
            without: logs and keys of which nothing is wanted.
        """
        ...

    async def forwarded(self, subscription: str, numbers: Sequence[int]) -> None:
        """Forget these: they are stored elsewhere.  Those that are gone already are no error."""
        ...

    async def undeliverable(self, subscription: str, refused: Sequence[tuple[int, str]]) -> None:
        """Make these dead letters, each with its reason.  Those that are gone already are no error."""
        ...
