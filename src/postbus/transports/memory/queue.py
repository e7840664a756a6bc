"""One subscription in memory: what is ready, due later, leased or suspect.  Takes no lock and reads no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from datetime import datetime
from heapq import heapify, heappop, heappush
from itertools import chain, count
from math import inf
from operator import itemgetter
from typing import Literal, NamedTuple

from ...delivery import Delivery
from ...transport import Outgoing, SubscriptionInfo, SubscriptionSpec
from .keys import Keys, Waiting

__all__ = ["Lease", "Queue", "Standing", "State", "essence"]

State = Literal["ready", "waiting", "parked", "scheduled", "retrying", "running"]


class Standing(NamedTuple):
    """How an unfinished delivery stands, and when it is due (0: it is)."""

    state: State
    item: Outgoing | Delivery
    due: float = 0.0


class Lease:
    """What one claim took: all of it ends together, but for what was renewed.

    Its number is the receipt of its deliveries.  The lease itself would make a ring of references, which nothing frees:
    deliveries are left out of the garbage collector's rounds.
    """

    __slots__ = ("alone", "ends", "first_end", "held", "longer", "number", "queue")

    def __init__(self, queue: Queue, number: int, ends: float, *, alone: bool) -> None:
        self.queue = queue
        self.number = number
        self.ends = ends
        self.first_end = ends
        self.alone = alone
        self.held: dict[int, Delivery] = {}
        self.longer: dict[int, float] | None = None

    def renew(self, fence: int, until: float) -> None:
        """Hold one delivery until then; never shortens."""
        longer = self.longer
        if longer is None:
            longer = self.longer = {}
        longer[fence] = max(until, longer.get(fence, self.ends))

    def ended(self, now: float) -> list[Delivery]:
        """Take out the deliveries whose lease has ended."""
        longer = self.longer or {}
        ends = {fence: longer.get(fence, self.ends) for fence in self.held}
        self.first_end = min((end for end in ends.values() if end > now), default=inf)
        return [self.held.pop(fence) for fence, end in ends.items() if end <= now]


class Queue:
    """One subscription.

    Attributes:
        fresh: appended and never claimed; while `keys` is None, each item as it came in.
        heads: the same of an ordered subscription: a heap of those that lead their key, by place.
        again: due once more: requeued, delayed, handed back or replayed.
        later: requeued or delayed, a heap by due time.
        suspects: their worker vanished.
        leases: what is out, by number; one entry for each claim, not for each delivery.
        all_leases: those of all queues.
        expiry: no lease ends before this.
        bells: where to leave word, once, that there is something to claim; `rung` until somebody heard it.
    """

    __slots__ = (
        "_tick", "again", "all_leases", "bells", "declared", "declared_at", "expiry", "fresh", "heads", "id", "keys",
        "later", "leases", "paused", "rung", "spec", "suspects",
    )  # fmt: skip

    def __init__(
        self,
        queue_id: str,
        spec: SubscriptionSpec,
        declared_at: datetime,
        *,
        bells: list[Queue],
        all_leases: dict[int, Lease],
    ) -> None:
        self.id = queue_id
        self.spec = spec
        self.declared = [spec]
        self.declared_at = declared_at
        self.paused = False
        self.fresh: deque[Outgoing] = deque()
        self.heads: list[tuple[int, Delivery]] = []
        self.again: deque[Delivery] = deque()
        self.later: list[tuple[float, int, Delivery]] = []
        self.suspects: deque[Delivery] = deque()
        self.leases: dict[int, Lease] = {}
        self.all_leases = all_leases
        self.expiry = inf
        self.keys = Keys() if spec.ordered else None
        self.bells = bells
        self.rung = False
        self._tick = 0

    @property
    def name(self) -> str:
        """Its name now."""
        return self.spec.name

    @property
    def info(self) -> SubscriptionInfo:
        """The subscription, as `Inspectable` shows it."""
        return SubscriptionInfo(id=self.id, spec=self.spec, paused=self.paused, declared_at=self.declared_at)

    def was_declared(self, spec: SubscriptionSpec) -> bool:
        """Whether a declaration that asks for the same was seen before."""
        return essence(spec) in map(essence, self.declared)

    def ring(self) -> None:
        """Leave word that there may be something to claim."""
        if not self.rung:
            self.rung = True
            self.bells.append(self)

    # -- in

    def put(self, item: Outgoing | Delivery, due: float = 0.0) -> None:
        """Take in what was not here before; `due` is 0 for at once."""
        delivery = item if isinstance(item, Delivery) else _blank(item, self.name)
        if self.keys is None or self.keys.enter(delivery, due):
            self._go(delivery, due)

    def back(self, delivery: Delivery, *, due: float = 0.0, attempt: int | None = None, suspect: bool = False) -> None:
        """Take back what was out: as if it had not been, or with an attempt number, and a suspect only if so said."""
        if attempt is not None:
            delivery = _again(delivery, attempt, suspect=suspect)
        if due:
            self._go(delivery, due)
        elif delivery.suspect:
            self.suspects.appendleft(delivery)
            self.ring()
        else:
            self.again.append(delivery)
            self.ring()

    def go(self, waiting: Waiting | None) -> None:
        """Let one go that waited behind its key."""
        if waiting is not None:
            self._go(waiting.delivery, waiting.due)

    def done(self, delivery: Delivery) -> None:
        """It is finished for good."""
        if self.keys is not None:
            self.go(self.keys.leave(delivery.envelope))

    def _go(self, delivery: Delivery, due: float) -> None:
        if due:
            self._tick += 1
            heappush(self.later, (due, self._tick, delivery))
        elif delivery.suspect:
            self.suspects.append(delivery)
        elif self.keys is not None and not delivery.fence:
            heappush(self.heads, (self.keys.place(delivery.envelope), delivery))
        else:
            self.again.append(delivery)
        self.ring()

    # -- out

    def take(self, limit: int, owner: str, lease: Lease) -> list[Delivery]:
        """Lease up to `limit`; their fences count up from the lease's number."""
        name, number = self.spec.name, lease.number
        fences = count(number)
        found: list[Delivery] = []
        if self.again or self.heads:
            found += [
                Delivery(old.envelope, name, old.attempt, fence, owner, number, event=old.event)
                for old, fence in zip(self._returned(limit), fences, strict=False)
            ]
        fresh = self.fresh
        if fresh:
            first = number + len(found)
            found += [
                Delivery((item := fresh.popleft()).envelope, name, 1, fence, owner, number, False, item.event)  # noqa: FBT003 - a keyword costs
                for fence in range(first, first + min(limit - len(found), len(fresh)))
            ]
        self._lease(lease, found)
        if len(found) < limit:
            self.rung = False
        return found

    def take_suspect(self, owner: str, lease: Lease) -> list[Delivery]:
        """Lease the suspect that waits longest."""
        if not self.suspects:
            return []
        old, number = self.suspects.popleft(), lease.number
        found = [Delivery(old.envelope, self.name, old.attempt, number, owner, number, suspect=True, event=old.event)]
        self._lease(lease, found)
        return found

    def _returned(self, limit: int) -> Iterator[Delivery]:
        while limit > 0 and self.again:
            limit -= 1
            yield self.again.popleft()
        while limit > 0 and self.heads:
            limit -= 1
            yield heappop(self.heads)[1]

    def _lease(self, lease: Lease, found: list[Delivery]) -> None:
        if found:
            number = lease.number
            lease.held = dict(zip(range(number, number + len(found)), found, strict=True))
            self.leases[number] = self.all_leases[number] = lease
            self.expiry = min(self.expiry, lease.ends)

    def expire(self, now: float) -> None:
        """Make suspects of what is out and was not renewed."""
        for lease in [lease for lease in self.leases.values() if lease.first_end <= now]:
            for delivery in lease.ended(now):
                self.suspects.append(_again(delivery, delivery.attempt + lease.alone, suspect=True))
            if not lease.held:
                self.end(lease)
        self.expiry = min((lease.first_end for lease in self.leases.values()), default=inf)
        if self.suspects:
            self.ring()

    def end(self, lease: Lease) -> None:
        """Nothing of this lease is out any more."""
        del self.leases[lease.number], self.all_leases[lease.number]

    def promote(self, now: float) -> None:
        """Make ready what has become due."""
        while self.later and self.later[0][0] <= now:
            delivery = heappop(self.later)[2]
            (self.suspects if delivery.suspect else self.again).append(delivery)

    # -- what waits for another attempt

    def retrying(self) -> list[tuple[float, Delivery]]:
        """What was requeued and is not due, the soonest first.  Call `promote` first."""
        return [(due, delivery) for due, _, delivery in sorted(self.later, key=itemgetter(0, 1)) if delivery.fence]

    def take_retries(self, ids: Container[bytes]) -> list[Delivery]:
        """Take out those of these events."""
        chosen: list[tuple[float, int, Delivery]] = []
        left: list[tuple[float, int, Delivery]] = []
        for entry in self.later:
            (chosen if entry[2].fence and entry[2].envelope.id_bytes in ids else left).append(entry)
        self.later = left
        heapify(self.later)
        return [delivery for _, _, delivery in sorted(chosen, key=itemgetter(0, 1))]

    # -- what it holds

    def standing(self, now: float) -> Iterator[Standing]:
        """Every unfinished delivery; `now` is wall time.  Call `expire` and `promote` first."""
        heads = (delivery for _, delivery in self.heads)
        for item in chain[Outgoing | Delivery](self.again, self.fresh, heads, self.suspects):
            yield Standing("ready", item)
        for due, _, delivery in self.later:
            yield Standing("retrying" if delivery.fence else "scheduled", delivery, due)
        for waiting, parked in self.keys.waiting() if self.keys is not None else ():
            if waiting.due > now:
                yield Standing("scheduled", waiting.delivery, waiting.due)
            else:
                yield Standing("parked" if parked else "waiting", waiting.delivery)
        for lease in self.leases.values():
            for delivery in lease.held.values():
                yield Standing("running", delivery)

    def redeclare(self, spec: SubscriptionSpec) -> None:
        """Become what this declaration says; what it holds stays."""
        self.spec = spec
        if spec.ordered != (self.keys is not None):
            moved = list(self._waiting())
            for room in (self.again, self.fresh, self.heads, self.suspects, self.later):
                room.clear()
            self.keys = Keys() if spec.ordered else None
            if self.keys is not None:
                for lease in self.leases.values():
                    for delivery in lease.held.values():
                        self.keys.hold(delivery.envelope)
            for item, due in moved:
                self.put(item, due)

    def _waiting(self) -> Iterator[tuple[Outgoing | Delivery, float]]:
        """What is not out, in the order of append as far as that is known."""
        for item in chain[Outgoing | Delivery](self.suspects, self.again, self.fresh):
            yield item, 0.0
        for due, _, delivery in sorted(self.later):
            yield delivery, due
        if self.keys is not None:
            behind = [(waiting.place, waiting.due, waiting.delivery) for waiting, _ in self.keys.waiting()]
            behind += [(place, 0.0, delivery) for place, delivery in self.heads]
            heapify(behind)
            while behind:
                _, due, delivery = heappop(behind)
                yield delivery, due

    def clear(self) -> None:
        """Let go of everything; what is out is lost to its owner."""
        for number in self.leases:
            del self.all_leases[number]
        for room in (self.again, self.fresh, self.heads, self.suspects, self.later, self.leases):
            room.clear()


def _blank(item: Outgoing, subscription: str) -> Delivery:
    """A delivery that nobody has claimed yet."""
    return Delivery(item.envelope, subscription, 1, 0, "", None, event=item.event)


def _again(old: Delivery, attempt: int, *, suspect: bool) -> Delivery:
    return Delivery(old.envelope, old.subscription, attempt, old.fence, old.owner, None, suspect, old.event)


def essence(spec: SubscriptionSpec) -> tuple[object, ...]:
    """What a declaration asks for.  Where the code is, and what it was called before, changes nothing."""
    return spec.name, frozenset(spec.wants), spec.topic, spec.ordered, spec.on_bury
