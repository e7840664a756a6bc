"""All subscriptions of one memory transport: who gets an event, what is remembered, what is dead.  Takes no lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from operator import itemgetter
from typing import NamedTuple, TypeAlias
from uuid import UUID

from ...address import Settings
from ...delivery import Ack, Bury, DeadLetter, Delivery, Outcome, Release, Requeue
from ...envelope import Envelope, new_id
from ...errors import ConfigError, LeaseLost, NotAccepted, UnknownSubscription
from ...transport import (
    Append,
    Claimed,
    Conflict,
    Duplicate,
    Outgoing,
    Refused,
    Settle,
    Settled,
    Stored,
    SubscriptionSpec,
)
from .ids import RUN, RecentIds
from .queue import Lease, Queue, essence

__all__ = ["DEDUP_WINDOW", "Dead", "Held", "Store"]

DEDUP_WINDOW = 600.0
# Names come from publishers: a program that invents new ones for ever must not fill the memory with routes.
_ROUTES = 4096
_GRAVES = 4096

_DUPLICATE = Duplicate()
_SETTLED = Settled()
_ACK = Ack()
_delivery, _outcome = itemgetter(0), itemgetter(1)

# The queues that take an event, the one of them where there is one and it has no keys, and the answer that says so.
_Route: TypeAlias = tuple[tuple[Queue, ...], Queue | None, int, Stored]
# Whatever holds an event: `envelope` and `event` are all that is asked of it.
Held: TypeAlias = Outgoing | Delivery | DeadLetter


class Dead(NamedTuple):
    """A dead letter, whose it is, and the number of its burial."""

    queue: Queue
    letter: DeadLetter
    number: int


class _Kept(NamedTuple):
    until: float
    item: Outgoing


class Store:
    """What a memory transport holds.  Every method is one step; the caller keeps two from happening at once.

    Attributes:
        queues: by the subscription's name.
        dead: all dead letters, oldest burial first.
        graves: the numbers of burials whose letters are gone, the latest few thousand: a page may begin behind one.
        unfinished: deliveries that wait or are out, over all subscriptions.
        bells: queues that have got something to claim since somebody looked here.
    """

    def __init__(self, settings: Settings) -> None:
        self._wall = settings.clock.time
        self._monotonic = settings.clock.monotonic
        self._retain = settings.retain
        self._ids = RecentIds(settings.clock, DEDUP_WINDOW)
        self._routes: dict[tuple[str, str], _Route] = {}
        self._history: deque[_Kept] = deque()
        self._fence = 0
        self._made = 0
        self.queues: dict[str, Queue] = {}
        self.dead: dict[UUID, Dead] = {}
        self.graves: dict[UUID, int] = {}
        self._burials = 0
        self.unfinished = 0
        self.bells: list[Queue] = []
        self._leases: dict[int, Lease] = {}

    # -- declare

    def declare(self, spec: SubscriptionSpec, *, newest: bool) -> Conflict | None:
        """Make this subscription exist, as it is declared now."""
        queue = self.queues.get(spec.name)
        if queue is None and spec.was is not None:
            queue = self.queues.get(spec.was)
        if queue is None:
            queue = next((known for known in self.queues.values() if known.was_declared(spec)), None)
        if queue is None:
            self._create(spec)
            return None
        seen = queue.was_declared(spec)
        if seen and not newest and essence(spec) != essence(queue.spec):
            return Conflict(
                spec.name,
                f"an older declaration of {spec.name!r} was not applied: {queue.name!r} was declared anew since then, "
                f"for {', '.join(queue.spec.wants)}",
            )
        if not seen:
            queue.declared.append(spec)
        del self.queues[queue.name]
        queue.redeclare(spec)
        self._enter(queue)
        return None

    def _create(self, spec: SubscriptionSpec) -> None:
        self._made += 1
        now = datetime.fromtimestamp(self._wall(), UTC)
        queue = Queue(str(self._made), spec, now, bells=self.bells, all_leases=self._leases)
        if spec.start == "earliest":
            self.refill(queue, self.stored())
        self._enter(queue)

    def _enter(self, queue: Queue) -> None:
        self.queues[queue.name] = queue
        self._routes.clear()
        queue.ring()

    def rename(self, name: str, to: str) -> None:
        """Give a subscription a new name; declarations under the old one are an older program's from now on."""
        queue = self.queue(name)
        if to == name:
            return
        if to in self.queues:
            raise ConfigError(f"{name!r} cannot be renamed to {to!r}: there is one of that name; retire it first")
        del self.queues[name]
        queue.spec = replace(queue.spec, name=to)
        queue.declared.append(queue.spec)
        self._enter(queue)

    def retire(self, name: str) -> int:
        """Delete a subscription with all it holds; return how many deliveries and dead letters went with it."""
        queue = self.queue(name)
        unfinished = sum(1 for _ in queue.standing(self.refresh(queue)))
        letters = [letter_id for letter_id, dead in self.dead.items() if dead.queue is queue]
        for letter_id in letters:
            self.unbury(letter_id)
        queue.clear()
        del self.queues[name]
        self._routes.clear()
        self.unfinished -= unfinished
        return unfinished + len(letters)

    def queue(self, name: str) -> Queue:
        """The subscription of that name."""
        queue = self.queues.get(name)
        if queue is None:
            have = f"there are {', '.join(sorted(self.queues))}" if self.queues else "there are none"
            raise UnknownSubscription(f"no subscription is named {name!r}: {have}")
        return queue

    # -- the road

    def append(self, items: Sequence[Outgoing]) -> list[Append]:
        """Store events and fan them out."""
        return [self.append_one(item) for item in items]

    def append_one(self, item: Outgoing) -> Append:
        """Store an event and fan it out."""
        envelope = item.envelope
        queues, lone, count, stored = self._routes.get((envelope.name, envelope.topic)) or self._route(envelope)
        if not count and item.require_subscription:
            return _unwanted(envelope)
        ids = self._ids
        event_id = envelope.id_bytes
        if ids.top < event_id < ids.limit:  # what nearly every id is, without a call
            ids.top = event_id
            ids.growing.append(event_id)
            if len(ids.growing) >= RUN:
                ids.tidy()
        elif not ids.add(event_id):
            return _DUPLICATE
        if lone is not None and not item.delay:
            lone.fresh.append(item)
            if not lone.rung:
                lone.ring()
        else:
            self._fan_out(item, queues)
        self.unfinished += count
        if self._retain is not None:
            self._keep(item, self._retain)
        return stored

    def _fan_out(self, item: Outgoing, queues: Sequence[Queue]) -> None:
        due = self._wall() + item.delay if item.delay else 0.0
        for queue in queues:
            if due or queue.keys is not None:
                queue.put(item, due)
            else:
                queue.fresh.append(item)
                queue.ring()

    def claim(self, name: str, owner: str, limit: int, seconds: float, *, alone: bool) -> Claimed:
        """Lease deliveries."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queue(name)
        now = self._monotonic()
        if now >= queue.expiry:
            queue.expire(now)
        if queue.paused:
            return Claimed(())
        next_due = self._promote(queue) if queue.later else None
        lease = Lease(queue, self._fence + 1, now + seconds, alone=alone)
        if limit < 1:
            found: list[Delivery] = []
        elif alone:
            found = queue.take_suspect(owner, lease)
        else:
            found = queue.take(limit, owner, lease)
        self._fence += len(found)
        return Claimed(found, next_due, bool(queue.suspects))

    def _promote(self, queue: Queue) -> float | None:
        wall = self._wall()
        queue.promote(wall)
        return queue.later[0][0] - wall if queue.later else None

    def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> list[Settle]:
        """Store outcomes."""
        now = self._monotonic()
        results: list[Settle] = []
        alike = True
        while (place := len(results)) < len(settlements):
            delivery, outcome = settlements[place]
            lease = self._lease(delivery, now)
            if lease is None:
                results.append(_lost(delivery))
                continue
            count = self._finish(lease, settlements, place) if alike else 0
            if not count:
                alike = False
                self._move(lease.queue, lease.held.pop(delivery.fence), outcome)
            results += [_SETTLED] * (count or 1)
            if not lease.held:
                lease.queue.end(lease)
        return results

    def _finish(self, lease: Lease, settlements: Sequence[tuple[Delivery, Outcome]], place: int) -> int:
        """Settle what nearly every call brings, without a step of ours for each: the next of one claim, all done.

        Returns how many; 0 when it is not so.
        """
        held, some = lease.held, settlements[place : place + len(lease.held)]
        count = len(some)
        if lease.queue.keys is not None or list(islice(held.values(), count)) != list(map(_delivery, some)):
            return 0
        if list(map(_outcome, some)).count(_ACK) != count:
            return 0
        for fence in list(islice(held, count)):
            del held[fence]
        self.unfinished -= count
        return count

    def _lease(self, delivery: Delivery, now: float) -> Lease | None:
        """The lease under which this delivery is out, or None when it is no longer so under its owner and fence."""
        lease = self._leases.get(delivery.receipt)
        if lease is None:
            return None
        if now >= lease.first_end:
            lease.queue.expire(now)
        held = lease.held.get(delivery.fence)
        if held is delivery or (held is not None and held.owner == delivery.owner):
            return lease
        return None

    def renew(self, deliveries: Sequence[Delivery], seconds: float) -> list[Delivery]:
        """Extend leases; return those that are lost."""
        now = self._monotonic()
        lost = []
        for delivery in deliveries:
            lease = self._lease(delivery, now)
            if lease is None:
                lost.append(delivery)
            else:
                lease.renew(delivery.fence, now + seconds)
        return lost

    def _move(self, queue: Queue, held: Delivery, outcome: Outcome) -> None:
        match outcome:
            case Requeue(after, failure, suspect):
                due = self._wall() + after if after > 0 else 0.0
                queue.back(held, due=due, attempt=held.attempt + (failure is not None), suspect=suspect)
            case Release():
                queue.back(held)
            case Bury():
                self._bury(queue, held, outcome)
            case Ack():
                queue.done(held)
                self.unfinished -= 1

    def _bury(self, queue: Queue, held: Delivery, why: Bury) -> None:
        envelope, failure = held.envelope, why.failure
        letter = DeadLetter(
            UUID(bytes=new_id()),
            envelope,
            queue.name,
            held.attempt - (failure is None),
            why.reason,
            "" if failure is None else str(failure),
            datetime.fromtimestamp(self._wall(), UTC),
            failure,
            held.event,
        )
        self._burials += 1
        self.dead[letter.id] = Dead(queue, letter, self._burials)
        self.unfinished -= 1
        if queue.keys is not None:
            queue.go(queue.keys.bury(envelope, letter.id, park=queue.spec.on_bury == "park"))

    def unbury(self, letter_id: UUID) -> DeadLetter:
        """Take out a dead letter."""
        dead = self.dead.pop(letter_id)
        if len(self.graves) >= _GRAVES:
            del self.graves[next(iter(self.graves))]
        self.graves[letter_id] = dead.number
        return dead.letter

    # -- who gets what

    def _route(self, envelope: Envelope) -> _Route:
        queues = tuple(queue for queue in self.queues.values() if queue.spec.takes(envelope.name, envelope.topic))
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        lone = queues[0] if len(queues) == 1 and queues[0].keys is None else None
        route = queues, lone, len(queues), Stored(len(queues))
        self._routes[envelope.name, envelope.topic] = route
        return route

    def _keep(self, item: Outgoing, seconds: float) -> None:
        now = self._wall()
        self.prune(now)
        self._history.append(_Kept(now + seconds, item))

    def prune(self, now: float) -> None:
        """Let go of the history that is past its time."""
        while self._history and self._history[0].until <= now:
            self._history.popleft()

    def refresh(self, queue: Queue) -> float:
        """Bring a queue up to date for a look at it, and return the wall time."""
        queue.expire(self._monotonic())
        wall = self._wall()
        queue.promote(wall)
        return wall

    def refill(self, queue: Queue, chosen: Sequence[tuple[Held, float]]) -> int:
        """Deliver to one subscription what is stored already; return how many it took."""
        count = 0
        for item, due in chosen:
            envelope = item.envelope
            if queue.spec.takes(envelope.name, envelope.topic):
                queue.put(Outgoing(envelope, item.event), due)
                count += 1
        self.unfinished += count
        return count

    def stored(self) -> list[tuple[Held, float]]:
        """Every event that is held, in the order of publishing, and when it is due if that is not yet."""
        self.prune(self._wall())
        found: dict[bytes, tuple[Held, float]] = {}
        for kept in self._history:
            found[kept.item.envelope.id_bytes] = kept.item, 0.0
        for _, letter, _ in self.dead.values():
            found.setdefault(letter.envelope.id_bytes, (letter, 0.0))
        for queue in self.queues.values():
            for state, item, due in queue.standing(self.refresh(queue)):
                if state == "scheduled":
                    found[item.envelope.id_bytes] = item, due
                else:
                    found.setdefault(item.envelope.id_bytes, (item, 0.0))
        return sorted(found.values(), key=lambda pair: (pair[0].envelope.micros, pair[0].envelope.id_bytes))


def _unwanted(envelope: Envelope) -> Refused:
    return Refused(
        NotAccepted(
            f"no subscription takes {envelope.name!r} of topic {envelope.topic!r}: declare a subscriber for it, "
            f"or publish without require_subscription"
        )
    )


def _lost(delivery: Delivery) -> LeaseLost:
    return LeaseLost(
        f"the lease of {delivery.envelope.name} {delivery.envelope.id} for {delivery.subscription!r} has ended "
        f"(owner {delivery.owner!r}, fence {delivery.fence})"
    )
