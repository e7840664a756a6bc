"""What can be seen of a bus from inside its process: counters, and facts given to observers.  Decides nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

from .delivery import Delivery, Outcome
from .envelope import Envelope

__all__ = ["Counters", "Fact", "Finished", "Lost", "Observer", "Published", "Started", "log"]

log = logging.getLogger("postbus")
log.addHandler(logging.NullHandler())


@dataclass(slots=True)
class Counters:
    """Counts since the bus was made, in this process.  Nothing that is lost, late or refused goes uncounted.

    Attributes:
        published: events accepted.
        unrouted: accepted events that no subscription took.
        duplicates: publishes whose id was stored already.
        refused: publishes that raised with nothing stored; `unknown`: those that may have been stored.
        acked, requeued, snoozed, buried, released: deliveries settled so.
        lease_lost: settles refused, and prefetched deliveries dropped, because the lease had ended.
        settle_retries: settles that were tried again because the transport did not answer.
        timeouts: attempts that ran out of time.
        leaked_slots: subscribers that would not end after their time, and still hold a slot.
        after_commit_errors: errors of after-commit handlers, which no caller sees.
        heartbeats_late: lease renewals that came later than the lease.
        transport_errors: calls to the transport that failed and were tried again.
        relayed: events that this process's relay carried from the outbox to the transport, `relay_duplicates` of which
            it had already.
        relay_refused: events that became dead letters of the outbox, because the transport will never take them.
        relay_errors: batches that could not be relayed and were tried again.
        journal_dropped: facts that the journal did not keep, because too many waited to be written.
    """

    published: int = 0
    unrouted: int = 0
    duplicates: int = 0
    refused: int = 0
    unknown: int = 0
    acked: int = 0
    requeued: int = 0
    snoozed: int = 0
    buried: int = 0
    released: int = 0
    lease_lost: int = 0
    settle_retries: int = 0
    timeouts: int = 0
    leaked_slots: int = 0
    after_commit_errors: int = 0
    heartbeats_late: int = 0
    transport_errors: int = 0
    relayed: int = 0
    relay_duplicates: int = 0
    relay_refused: int = 0
    relay_errors: int = 0
    journal_dropped: int = 0

    def as_dict(self) -> dict[str, int]:
        """All of them, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class Published:
    """An event was accepted, for this many subscriptions (None: the transport does not know)."""

    envelope: Envelope
    routes: int | None


@dataclass(frozen=True, slots=True)
class Started:
    """A subscriber began with a delivery."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Finished:
    """A delivery was settled, after `seconds` of running."""

    delivery: Delivery
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class Lost:
    """A delivery's lease ended before it was settled."""

    delivery: Delivery


Fact: TypeAlias = Published | Started | Finished | Lost
Observer = Callable[[Fact], None]
