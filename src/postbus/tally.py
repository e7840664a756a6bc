"""What one process publishes and runs, added up where it happens: a few additions, most of them once for many events.

Figures only grow; who shows them takes differences.  Which attempts are worth remembering one by one is decided here,
because only here it can be done for next to nothing.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Sequence

import msgspec

from .delivery import Ack, Bury, Delivery, Outcome, Requeue
from .envelope import split_log
from .observe import Counters
from .transport import Append, Outgoing, Stored

__all__ = ["EDGES", "Attempted", "Histogram", "LaneTally", "PublishTally", "RunTally", "Tally", "counted_alike"]

# The upper edges of a histogram's buckets, in seconds; beyond the last there is one more.
EDGES: tuple[float, ...] = tuple(round(digit * 10.0**power, 6) for power in range(-5, 4) for digit in (1, 2, 5))[
    2:
]  # from 50 us to 5000 s

# First-try successes that are remembered one by one, in a second.
_SAMPLES = 20
# Attempts that wait to be written; more of them in a second are counted, and not remembered.
_WAITING = 1000


class Histogram:
    """How long something took, how often."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES) + 1)
        self.total = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count so many that took so long each."""
        self.counts[bisect_left(EDGES, seconds)] += times
        self.total += seconds * times


class PublishTally:
    """What became of publishes under one name."""

    __slots__ = ("duplicates", "refused", "stored", "unknown", "unrouted")

    def __init__(self) -> None:
        self.stored = 0
        self.unrouted = 0
        self.duplicates = 0
        self.refused = 0
        self.unknown = 0


class RunTally:
    """What became of one subscription's deliveries of one topic.

    Attributes:
        acked, retried, snoozed, buried, released: settled so; `failed` are those of them that carried an error.
        lost: settles that were refused.
        run: how long subscribers ran; those that end at once are timed together, and count with their mean.
        delay: from the publish to the start of the first attempt.
    """

    __slots__ = ("acked", "buried", "delay", "failed", "lost", "released", "retried", "run", "snoozed")

    def __init__(self) -> None:
        self.acked = 0
        self.retried = 0
        self.snoozed = 0
        self.buried = 0
        self.released = 0
        self.failed = 0
        self.lost = 0
        self.run = Histogram()
        self.delay = Histogram()


class Attempted(msgspec.Struct, frozen=True):
    """One attempt that is worth remembering: what ran, what became of it (None: its lease was lost), and when."""

    delivery: Delivery
    outcome: Outcome | None
    started: float
    took: float


class Tally:
    """Everything added up in this process.

    Args:
        now: the wall clock.

    Attributes:
        published: by wire name and topic.
        runs: by subscription and topic.
        waits: how long publishes in an event loop waited for the store, by topic.
        remembers: whether attempts are to be remembered one by one.
        attempts: those that are; whoever writes them down takes them away.
        dropped: attempts that found no room there.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.published: dict[tuple[str, str], PublishTally] = {}
        self.runs: dict[tuple[str, str], RunTally] = {}
        self.waits: dict[str, Histogram] = {}
        self.remembers = False
        self.attempts: deque[Attempted] = deque()
        self.dropped = 0
        self.samples = 0
        # What has ended and is not settled, by the delivery's own identity: when it started and how long it took.
        self.times: dict[int, tuple[float, float]] = {}

    def publish(self, name: str, topic: str) -> PublishTally:
        """The figures of one name."""
        found = self.published.get((name, topic))
        return found if found is not None else self.published.setdefault((name, topic), PublishTally())

    def waited(self, topic: str, seconds: float) -> None:
        """A publish waited so long for the store's answer."""
        (self.waits.get(topic) or self.waits.setdefault(topic, Histogram())).add(seconds)

    def of(self, subscription: str, topic: str) -> RunTally:
        """The figures of one subscription and topic."""
        found = self.runs.get((subscription, topic))
        return found if found is not None else self.runs.setdefault((subscription, topic), RunTally())

    def another_second(self) -> None:
        """So many more successes may be remembered."""
        self.samples = _SAMPLES

    def remember(self, delivery: Delivery, outcome: Outcome | None) -> None:
        """One attempt has ended for good, and is worth remembering."""
        if not self.remembers:
            return
        started, took = self.times.pop(id(delivery), (self.now(), 0.0))
        if len(self.attempts) >= _WAITING:
            self.dropped += 1
        else:
            self.attempts.append(Attempted(delivery, outcome, started, took))


class LaneTally:
    """What one worker adds up for one subscription.

    Args:
        logs: those its events are known to be in; where they are of one topic, nobody looks at each event's.
    """

    __slots__ = ("_by_topic", "_name", "_only", "_tally", "_troubled")

    def __init__(self, tally: Tally, subscription: str, logs: Sequence[str]) -> None:
        self._tally = tally
        self._name = subscription
        self._by_topic: dict[str, RunTally] = {}
        known = {split_log(log)[0] for log in logs}
        self._only = tally.of(subscription, known.pop()) if len(known) == 1 else None
        self._troubled = False  # something failed here: what runs again is worth a look

    def _of(self, topic: str) -> RunTally:
        found = self._by_topic.get(topic)
        if found is None:
            found = self._by_topic[topic] = self._tally.of(self._name, topic)
        return found

    def _shares(self, pairs: Sequence[tuple[Delivery, Outcome]]) -> Sequence[tuple[RunTally, int]]:
        if self._only is not None:
            return ((self._only, len(pairs)),)
        return [(self._of(topic), n) for topic, n in Counter(d.envelope.topic for d, _ in pairs).items()]

    # -- run

    def ran_at_once(self, pairs: Sequence[tuple[Delivery, Outcome]], count: int, took: float, *, smooth: bool) -> None:
        """The last `count` of these ran one after the other and never waited, in `took` seconds together, until now.

        `smooth` says that none of them failed.
        """
        tally, runs = self._tally, self._only
        mean, last = took / count, pairs[-1][0]
        if runs is not None:
            times = runs.run
            times.counts[bisect_left(EDGES, mean)] += count
            times.total += took
        else:
            for runs, share in self._shares(pairs[-count:]):
                runs.run.add(mean, share)
            runs = self._of(last.envelope.topic)
        now = tally.now()
        if self._troubled:  # some may have run before
            for delivery, _ in pairs[-count:]:
                if delivery.attempt == 1:
                    runs.delay.add(max(0.0, now - delivery.envelope.micros * 1e-6))
        elif last.attempt == 1:
            runs.delay.add(max(0.0, now - last.envelope.micros * 1e-6), count)
        if tally.remembers and (tally.samples > 0 or self._troubled or not smooth):
            self._note_times(pairs[-count:], now - mean, mean)

    def _note_times(self, pairs: Sequence[tuple[Delivery, Outcome]], started: float, took: float) -> None:
        times = self._tally.times
        if self._tally.samples > 0:
            self._tally.samples -= 1
            times[id(pairs[-1][0])] = started, took
        for delivery, outcome in pairs:
            if delivery.attempt > 1 or type(outcome) is not Ack:
                self._troubled = True
                times[id(delivery)] = started, took

    def ran(self, delivery: Delivery, outcome: object, began: float) -> None:
        """One ran from `began`, on the monotonic clock, until now."""
        tally = self._tally
        took = time.monotonic() - began
        started = tally.now() - took
        runs = self._only or self._of(delivery.envelope.topic)
        runs.run.add(took)
        if delivery.attempt == 1:
            runs.delay.add(max(0.0, started - delivery.envelope.micros / 1e6))
        if not tally.remembers:
            return
        if delivery.attempt == 1 and type(outcome) is Ack:
            if tally.samples <= 0:
                return
            tally.samples -= 1
        tally.times[id(delivery)] = started, took

    # -- settled

    def acked(self, pairs: Sequence[tuple[Delivery, Outcome]]) -> None:
        """All of these were settled as done."""
        for runs, share in self._shares(pairs):
            runs.acked += share
        tally = self._tally
        if tally.times:
            for delivery, outcome in pairs:
                if id(delivery) in tally.times:
                    tally.remember(delivery, outcome)

    def settled(self, delivery: Delivery, outcome: Outcome) -> None:
        """One was settled, one way or the other."""
        runs = self._only or self._of(delivery.envelope.topic)
        match outcome:
            case Ack():
                self.acked(((delivery, outcome),))
                return
            case Requeue(_, None):
                runs.snoozed += 1
            case Requeue():
                self._troubled = True
                runs.retried += 1
                runs.failed += 1
            case Bury(_, failure):
                runs.buried += 1
                runs.failed += failure is not None
            case _:
                runs.released += 1
                if id(delivery) not in self._tally.times:  # it never started
                    return
        self._tally.remember(delivery, outcome)

    def lost(self, delivery: Delivery) -> None:
        """The settle of one was refused."""
        runs = self._only or self._of(delivery.envelope.topic)
        runs.lost += 1
        self._tally.remember(delivery, None)


def counted_alike(
    items: Sequence[Outgoing], results: Sequence[Append], counters: Counters, tally: Tally | None
) -> bool:
    """Count a batch of one kind that is stored and taken, as nearly always, without a step for each event.

    Returns whether it is one; else nothing is counted.
    """
    first = results[0] if results else None
    if type(first) is not Stored or not first.routes or results.count(first) != len(items):
        return False
    kinds = {(item.envelope.name, item.envelope.topic) for item in items}
    if len(kinds) > 1:
        return False
    counters.published += len(items)
    if tally is not None:
        tally.publish(*kinds.pop()).stored += len(items)
    return True
