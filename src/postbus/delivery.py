"""One event offered to one subscription, and what becomes of it.  Frozen facts, no behaviour.

waiting --claim--> leased --settle(Ack)------> gone
   ^                 |------settle(Requeue)--> waiting, due later; an attempt is spent if it carries a failure
   |                 |------settle(Release)--> waiting, due now, as if never claimed
   |                 |------settle(Bury)-----> dead --replay--> waiting, with no attempt spent
   +---suspect-------+------lease ends: its worker vanished; nothing is spent, but it must next run alone
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from .envelope import Envelope

__all__ = [
    "Ack",
    "Bury",
    "DeadLetter",
    "Delivery",
    "Failure",
    "Outcome",
    "Reject",
    "Release",
    "Requeue",
    "Snooze",
]


class Delivery(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One event, leased to one owner for one subscription.

    Attributes:
        envelope: what was published.
        subscription: the subscription's name.
        attempt: which try this is, from 1; it is one more than the attempts spent.
        fence: grows at every claim of this delivery; part of the receipt.
        owner: who claimed it.
        receipt: what the transport needs to find it again; nobody else reads it.
        suspect: its last worker vanished while it held this delivery, so it must run with nothing beside it.
        event: the event itself, where the transport passes objects; else None.
    """

    envelope: Envelope
    subscription: str
    attempt: int
    fence: int
    owner: str
    receipt: Any
    suspect: bool = False
    event: object = None


class Failure(msgspec.Struct, frozen=True):
    """What a failed run left behind: text only, so that no frame or payload is kept alive.

    Attributes:
        error: the exception's class, as `module.Name` (builtins without their module).
        message: its text, truncated and redacted.
        traceback: the formatted traceback, truncated and redacted; never holds local variables.
    """

    error: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return self.traceback or f"{self.error}: {self.message}"


class Ack(msgspec.Struct, frozen=True, tag=True):
    """Done."""


class Requeue(msgspec.Struct, frozen=True, tag=True):
    """Deliver again, not before `after` seconds.  With a failure an attempt is spent; without one it is a snooze.

    A suspect that failed is none any more, unless it killed the process that ran it: `suspect` says that it must run
    alone again.
    """

    after: float
    failure: Failure | None = None
    suspect: bool = False


class Bury(msgspec.Struct, frozen=True, tag=True):
    """Keep as a dead letter, with why; an attempt is spent if there is a failure."""

    reason: str
    failure: Failure | None = None


class Release(msgspec.Struct, frozen=True, tag=True):
    """Hand back at once, as if it had not been claimed."""


Outcome: TypeAlias = Ack | Requeue | Bury | Release


class Reject(Exception):
    """Raised by a subscriber: bury this delivery now, whatever attempts are left."""

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(reason)
        self.reason = reason


class Snooze(Exception):
    """Raised by a subscriber: deliver this again after `seconds`, with no attempt spent."""

    def __init__(self, seconds: Any) -> None:
        """`seconds` is a number or a timedelta, not negative."""
        total = seconds.total_seconds() if hasattr(seconds, "total_seconds") else float(seconds)
        if not 0 <= total < float("inf"):
            raise ValueError(f"Snooze({seconds!r}): expected seconds from 0, or a timedelta")
        super().__init__(f"snoozed for {total:g} s")
        self.seconds = total


class DeadLetter(msgspec.Struct, frozen=True):
    """A buried delivery: its original envelope, and why.

    Attributes:
        id: the dead letter's own id, the same each time it is listed; what dies again after a replay has a new one, so
            that whoever acts on an older list acts on nothing else.
        envelope: with the original bytes and headers.
        subscription: the one that buried it, and the only one a replay reaches.
        attempts: how many were spent.
        reason: one line: 'attempts spent', 'expired', 'undecodable: ...', or what `Reject` said.
        error: the last failure with its traceback, redacted; empty when there was none.
        buried_at: aware, UTC.
        failure: the last failure in parts, or None.
        event: the event itself, where the transport passes objects; else None.
    """

    id: UUID
    envelope: Envelope
    subscription: str
    attempts: int
    reason: str
    error: str
    buried_at: datetime
    failure: Failure | None = None
    event: object = None
