"""The transport contract: the promises of what carries envelopes.  `postbus.testing.TransportSuite` holds it to them.

Two protocols, by need: `Transport` (the road: append, claim, settle) and `Inspectable` (what CLI and dashboard use).
What a transport in a database offers beside them stands in `enlisting`.  What a server cannot do is a field of
`Traits`, not an override.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, TypeAlias, runtime_checkable
from uuid import UUID

import msgspec

from .delivery import DeadLetter, Delivery, Outcome
from .envelope import Envelope, split_log
from .errors import LeaseLost, PostbusError, PublishFailed, PublishUnknown
from .event import Pattern, is_pattern

__all__ = [
    "Amending",
    "Append",
    "Claimed",
    "Conflict",
    "DeadQuery",
    "Direct",
    "Duplicate",
    "EventQuery",
    "Following",
    "Immediate",
    "Inspectable",
    "Outgoing",
    "Refused",
    "Renewer",
    "Settle",
    "Settled",
    "Stored",
    "StoredEvent",
    "SubscriptionInfo",
    "SubscriptionSpec",
    "SubscriptionStats",
    "Traits",
    "Transport",
    "Unknown",
    "WorkerInfo",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a transport can promise.  The suite reads these, tightens or skips by them, and checks that they are true.

    Attributes:
        name: the URL scheme it is known by.
        durable: what an accepted event survives: 'memory' nothing, 'os' a killed process, 'disk' a power loss,
            'server' whatever the server is configured for.
        shared: several processes may open it at once.
        fenced: a settle by a worker whose lease ended is refused.
        ordered: `SubscriptionSpec.ordered` is kept, across all workers.
        delay: `Outgoing.delay` and `Requeue.after` are kept by the transport, not by the worker.
        dedup_window: seconds for which an id is remembered.
        atomic_requeue: requeue and burial are one step; else a crash may leave two, never none.
        exact_attempts: attempts are stored with the delivery.
        pause, rename, history: whether `Inspectable` can do these.
        lease_of: 'delivery' where each has its own lease; 'owner' where all of one owner's live while it beats.
        objects: it passes event objects instead of bytes.
        coalesce: it gains from publishes that leave as one batch.
    """

    name: str
    durable: Literal["memory", "os", "disk", "server"]
    shared: bool = True
    fenced: bool = True
    ordered: bool = True
    delay: bool = True
    dedup_window: float = 600.0
    atomic_requeue: bool = True
    exact_attempts: bool = True
    pause: bool = True
    rename: bool = True
    history: bool = True
    lease_of: Literal["delivery", "owner"] = "delivery"
    objects: bool = False
    coalesce: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionSpec:
    """A subscription as the program declares it.

    Attributes:
        name: the durable identity, unique in the namespace.
        wants: wire names and patterns; the transport filters by them before a worker sees anything.
        topic: only events of this topic, or None for any.
        topics: the logs its names are known to use, a hint for transports that keep them apart: see `Envelope.log`.
        ordered: deliveries of one (topic, key) run one at a time, in the order they were appended.
        on_bury: what a burial does to its key in an ordered subscription: 'continue' with the next event, or 'park'
            the key until the dead letter is replayed or discarded.
        start: 'new' receives what is appended from now on, 'earliest' also what the transport still holds.
        was: the name it had before; its place, attempts and marks are carried over.
        handler: where the code is, as `module:function`, for people.
    """

    name: str
    wants: tuple[str, ...]
    topic: str | None = None
    topics: tuple[str, ...] = ()
    ordered: bool = False
    on_bury: Literal["continue", "park"] = "continue"
    start: Literal["new", "earliest"] = "new"
    was: str | None = None
    handler: str = ""

    def takes(self, name: str, topic: str) -> bool:
        """Whether an event of this name and topic, or log of it, belongs to the subscription."""
        if self.topic is not None and self.topic != topic and self.topic != split_log(topic)[0]:
            return False
        return any(want == name or (is_pattern(want) and Pattern(want).matches(name)) for want in self.wants)


@dataclass(frozen=True, slots=True)
class Conflict:
    """A declaration that lost to a newer one: the transport kept what it had."""

    subscription: str
    message: str


class Outgoing(msgspec.Struct, frozen=True, eq=False, gc=False):
    """An envelope on its way in.

    Attributes:
        envelope: what is stored.
        event: the event itself, for transports that pass objects; else None.
        delay: seconds from now, by the transport's clock, before which no subscription receives it.
        require_subscription: refuse it when no subscription takes it.
    """

    envelope: Envelope
    event: object = None
    delay: float = 0.0
    require_subscription: bool = False


class Stored(msgspec.Struct, frozen=True):
    """The event is stored at the transport's level, for `routes` subscriptions (None: not known to the transport)."""

    routes: int | None = None


class Duplicate(msgspec.Struct, frozen=True):
    """An event of this id is stored already; nothing was added."""


class Refused(msgspec.Struct, frozen=True, eq=False):
    """Nothing was stored, and nothing will be."""

    error: PublishFailed


class Unknown(msgspec.Struct, frozen=True, eq=False):
    """The answer was lost: the request may or may not have happened.  Asking again is safe."""

    error: PublishUnknown | PostbusError


Append: TypeAlias = Stored | Duplicate | Refused | Unknown


class Settled(msgspec.Struct, frozen=True):
    """The outcome is stored."""


Settle: TypeAlias = Settled | LeaseLost | Unknown


class Claimed(msgspec.Struct, frozen=True, eq=False):
    """What a claim gave.

    Attributes:
        deliveries: at most as many as asked; fewer means that nothing more was ready.
        next_due: seconds until a delayed or requeued delivery becomes ready; None when none waits, or when as many were
            given as asked and a log was not read to its end.
        suspects: some wait for a claim with `alone=True`.
    """

    deliveries: Sequence[Delivery]
    next_due: float | None = None
    suspects: bool = False


class Transport(Protocol):
    """One way to carry envelopes.

    All methods may be called concurrently from one event loop.  Cancelling any of them loses nothing: what a
    cancelled `claim` had taken is released, and what a cancelled `append` or `settle` did is as if its answer was lost.
    Errors: `TransportError` when the server cannot be reached (the caller tries again), `Closed` after `close()`,
    `ForkError` in a process other than the one that opened it.
    """

    @property
    def traits(self) -> Traits:
        """What this transport can promise."""
        ...

    async def open(self) -> None:
        """Connect, and create or migrate what is missing; several processes may do so at once.  Idempotent."""
        ...

    async def close(self) -> None:
        """Let go of connections and threads; idempotent.  Leases are left to end."""
        ...

    async def declare(self, subscriptions: Sequence[SubscriptionSpec], *, newest: bool = False) -> Sequence[Conflict]:
        """Make these subscriptions exist, so that events appended from now on reach them.

        A declaration the transport has not seen before becomes the current one.  One it has seen and replaced since is
        an older program's: it is reported as a conflict and not applied, unless `newest` says that the deploy means it.
        So is one under a name that the subscription had before `was` or `rename` gave it another: a worker of the
        release before must not make a second subscription beside it; with `newest` it has its old name back.
        What a declaration means is its name, `wants`, `topic`, `ordered` and `on_bury`.  Idempotent, and safe from
        several processes at once.
        """
        ...

    async def append(self, items: Sequence[Outgoing]) -> Sequence[Append]:
        """Store events, durably at the transport's level, and fan them out to the subscriptions that take them.

        One result for each item, in order; atomic per topic; idempotent by id for `Traits.dedup_window` seconds.
        """
        ...

    async def wait(self, subscriptions: Collection[str], timeout: float) -> Set[str]:
        """The doorbell: return the names that may have got work since the last call, or none after `timeout` seconds.

        A hint, never the truth: it may ring too often, and whoever relies on it polls as well.
        """
        ...

    async def claim(self, subscription: str, *, owner: str, limit: int, lease: float, alone: bool = False) -> Claimed:
        """Lease up to `limit` deliveries to `owner` for `lease` seconds.  Never blocks for work.

        First requeued and delayed ones that are due, then new ones in the order of append; of an ordered subscription
        only the head of each key.  A paused subscription gives nothing.

        What an owner held when its lease ended is *suspect*: it is given out, one at a time, only to a claim with
        `alone=True`, whose caller promises to run nothing beside it.  Such a claim gives one suspect or nothing, and
        when its lease ends unsettled, an attempt is spent.  A suspect that is handed back with `Release`, or requeued
        as one, stays one; any other outcome says that its worker survived it.  Each claim has a fence greater than all
        before it.

        Raises:
            UnknownSubscription: when it was never declared, or is gone (the caller declares it again).
        """
        ...

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> Sequence[Settle]:
        """Store outcomes, each in one atomic step.  One result for each, in order.

        `LeaseLost` where the delivery is no longer leased under its owner and fence: nothing was done for that one.
        """
        ...

    def renewer(self) -> Renewer:
        """A renewer with a connection of its own, for the use of one thread."""
        ...


class Renewer(Protocol):
    """Keeps leases alive from a thread, so that a busy event loop cannot lose them.  Blocking."""

    def renew(self, deliveries: Sequence[Delivery], lease: float) -> Collection[Delivery]:
        """Extend these leases to `lease` seconds from now; return those that are lost."""
        ...

    def beat(self, worker: WorkerInfo) -> None:
        """Say that this worker lives; `state='gone'` forgets it."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


@runtime_checkable
class Immediate(Protocol):
    """A transport that can append on the caller's thread, without an event loop."""

    def append_now(self, items: Sequence[Outgoing], timeout: float) -> Sequence[Append]:
        """As `Transport.append`, from any thread, within `timeout` seconds (0: do not wait for room)."""
        ...


@runtime_checkable
class Direct(Protocol):
    """A transport so near that a single event is stored faster than a batch could be made of it."""

    def append_one(self, item: Outgoing) -> Append | None:
        """As `Immediate.append_now` with one item and no time to wait; None where there is no room."""
        ...


@runtime_checkable
class Following(Protocol):
    """A transport that answers a settle with what it makes the head of its key: no claim behind it, and no doorbell."""

    async def settle_and_follow(
        self, settlements: Sequence[tuple[Delivery, Outcome]], *, owner: str, lease: float
    ) -> tuple[Sequence[Settle], Sequence[Delivery]]:
        """As `Transport.settle`; and lease to `owner` what comes next of the keys that it frees, as far as it is due.

        At most one delivery for each settlement, of the same subscription and key, leased as by `Transport.claim`; none
        of a paused subscription.  What is not given here is found by a claim.
        """
        ...


@runtime_checkable
class Amending(Protocol):
    """A transport whose dead letters can be mended: what was wrong in the event itself is put right for one."""

    async def amend(self, subscription: str, letter: UUID, envelope: Envelope) -> bool:
        """Let this dead letter hold another event, of the same topic and key and with an id of its own.

        It stays dead until it is replayed, and keeps its id, attempts and reason; where it holds its key, the new event
        goes before those behind it.  Other subscriptions neither see the new event nor lose the old one.  One atomic
        step; False when there is no such letter.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerInfo:
    """A worker as it says of itself at each beat; `trouble` is why it cannot do its work at the moment, if so."""

    owner: str
    host: str
    pid: int
    version: str
    started_at: datetime
    subscriptions: tuple[str, ...]
    concurrency: int
    busy: int = 0
    state: Literal["running", "quiet", "draining", "gone"] = "running"
    seen_at: datetime | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionInfo:
    """A durable subscription as the transport holds it.  `id` never changes, whatever its name."""

    id: str
    spec: SubscriptionSpec
    paused: bool = False
    declared_at: datetime | None = None

    @property
    def name(self) -> str:
        """Its name now."""
        return self.spec.name


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStats:
    """How one subscription stands.

    Attributes:
        backlog: ready and not claimed (suspects and the waiting events of busy keys included).
        in_flight: leased.
        scheduled: published with a delay that has not passed.
        retrying: requeued or snoozed, and not due.
        dead: dead letters.
        oldest_age: seconds since the oldest unfinished event that is due was published; None when there is none.
        next_due: seconds until the next scheduled or retrying one is due; None when there is none.
        waiting: of `backlog`, those behind an earlier event of their key.
        parked: keys held by a dead letter (`on_bury='park'`), and `parked_events` behind them (not in `backlog`).
        workers: how many live workers run it.
        paused: whether claims are refused.
        trimmed: events that somebody else removed from the server before the subscription was done with them.
    """

    name: str
    backlog: int = 0
    in_flight: int = 0
    scheduled: int = 0
    retrying: int = 0
    dead: int = 0
    oldest_age: float | None = None
    next_due: float | None = None
    parked: int = 0
    parked_events: int = 0
    workers: int = 0
    paused: bool = False
    trimmed: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadQuery:
    """Which dead letters: every given field must match.

    Attributes:
        ids: dead letters' ids or events' ids.
        name: the event's wire name or a pattern.
        key: the event's key.
        error: a part of the error's class or message, ignoring case.
        reason: a part of the reason, ignoring case.
        since: buried at this time or later.
        before: buried before this.
    """

    ids: tuple[UUID, ...] | None = None
    name: str | None = None
    key: str | None = None
    error: str | None = None
    reason: str | None = None
    since: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventQuery:
    """Which stored events: every given field must match.

    Attributes:
        id: the event's id.
        name: its wire name or a pattern.
        key: its key.
        correlation_id: the first event of its chain.
        since: published at this time or later.
        before: published before this.
    """

    id: UUID | None = None
    name: str | None = None
    key: str | None = None
    correlation_id: str | None = None
    since: datetime | None = None
    before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event the transport holds, and where each subscription stands with it.

    Attributes:
        envelope: what was published.
        cursor: pass it as `after=` to get what comes behind.
        states: subscription name to 'ready', 'waiting' (behind its key), 'scheduled', 'retrying', 'running' or 'dead'.
            A subscription that is done with it does not appear.
        event: the event itself, where the transport passes objects; else None.
    """

    envelope: Envelope
    cursor: str
    states: dict[str, str] = field(default_factory=dict)
    event: object = None


@runtime_checkable
class Inspectable(Protocol):
    """What can be seen and mended, on a transport opened by any process.  Reads never hold a lock for long.

    Whatever names one subscription raises `UnknownSubscription` when there is none of that name; `stats` leaves it out.
    """

    async def ping(self) -> float:
        """Seconds for one round trip to the store."""
        ...

    async def subscriptions(self) -> Sequence[SubscriptionInfo]:
        """Every durable subscription, by name."""
        ...

    async def stats(self, subscriptions: Collection[str] | None = None) -> Sequence[SubscriptionStats]:
        """How these (or all) subscriptions stand, by name."""
        ...

    async def workers(self) -> Sequence[WorkerInfo]:
        """The workers that have beaten within their lease."""
        ...

    async def events(self, query: EventQuery, *, limit: int = 100, after: str | None = None) -> Sequence[StoredEvent]:
        """Stored events, newest first, in keyset pages."""
        ...

    async def dead(
        self, subscription: str | None, query: DeadQuery, *, limit: int = 100, after: UUID | None = None
    ) -> Sequence[DeadLetter]:
        """Dead letters of one or all subscriptions, oldest burial first, in keyset pages behind the letter `after`.

        `after` may have been replayed or discarded since: its place still counts.
        """
        ...

    async def replay(self, subscription: str, ids: Sequence[UUID]) -> int:
        """Make these dead letters ready again for their subscription, with no attempt spent; return how many were."""
        ...

    async def discard(self, subscription: str, ids: Sequence[UUID]) -> int:
        """Delete these dead letters; return how many were."""
        ...

    async def pause(self, subscription: str) -> None:
        """Refuse claims until `resume`; what is stored stays, and what is appended is kept.  Idempotent."""
        ...

    async def resume(self, subscription: str) -> None:
        """Allow claims again.  Idempotent."""
        ...

    async def rename(self, subscription: str, to: str) -> None:
        """Give the subscription a new name; its id, place, attempts and dead letters stay.

        Raises:
            ConfigError: when `to` is taken.
        """
        ...

    async def retire(self, subscription: str) -> int:
        """Delete the subscription with all it holds; return how many deliveries and dead letters went with it."""
        ...

    async def seek(self, subscription: str, to: datetime) -> int:
        """Deliver again, to this subscription only, the stored events published at or after `to` that it takes.

        Returns how many.  What still waits for it is not delivered twice.
        """
        ...
