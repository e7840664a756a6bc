"""What a transport shows of deliveries that wait for another attempt, and what can be done about them.

A transport without it retries just as well; its retries are then only counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from .delivery import Failure
from .envelope import Envelope

__all__ = ["Hastening", "Retrying"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """A delivery that was requeued, and is not due.

    Attributes:
        place: what `Hastening` finds it by, and behind what a further page begins.
        envelope: the event.
        subscription: whose.
        attempt: which try comes next, from 1.
        due_at: when it is made; aware, UTC.
        failure: how the last one failed; None after a snooze, and where the transport does not keep it.
        event: the event itself, where the transport passes objects; else None.
    """

    place: str
    envelope: Envelope
    subscription: str
    attempt: int
    due_at: datetime
    failure: Failure | None = None
    event: object = None


@runtime_checkable
class Hastening(Protocol):
    """A transport whose retries can be seen, and need not be waited for.

    All calls raise `UnknownSubscription` when there is none of that name.  A place of a delivery that is no longer
    retrying, because it is due, runs or is done, is passed over.
    """

    async def retrying(self, subscription: str, *, limit: int = 100, after: str | None = None) -> Sequence[Retrying]:
        """What waits for another attempt, the soonest first, in keyset pages behind the place `after`."""
        ...

    async def hasten(self, subscription: str, places: Sequence[str]) -> int:
        """Make these due now, with their attempts as they are; return how many were."""
        ...

    async def abandon(self, subscription: str, places: Sequence[str]) -> int:
        """Let go of these for good, each in one atomic step: a key that one of them held goes on; return how many."""
        ...
