"""Drives a transport at random against a model of what it must do.  The only room that imports Hypothesis.

    Machine = transport_machine(lambda clock: connect(Address.parse("memory://"), Settings(clock=clock)))
    TestShelf = Machine.TestCase

The model says for each event and subscription whether it waits, is out, is dead or done; every claim, settle, renewal
and replay is compared with it.  It holds the transport to GUARANTEES 2, 3, 5, 9, 11 and 13.
"""

# A rule says by asserts what it expects.
# ruff: noqa: S101

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ..delivery import Ack, Bury, Delivery, Failure, Outcome, Release, Requeue
from ..envelope import Envelope, new_id
from ..errors import LeaseLost
from ..transport import (
    Claimed,
    DeadQuery,
    Duplicate,
    Inspectable,
    Outgoing,
    Settled,
    Stored,
    SubscriptionSpec,
    Transport,
)
from .clock import ManualClock

__all__ = ["transport_machine"]

T = TypeVar("T")

_LEASE = 10.0
# No sum of ticks is a lease or a delay, so that nothing is asked at the very moment it ends.
_TICKS = (4.0, 7.0, 13.0)
_DELAYS = (0.0, 0.0, 0.0, 5.5)
_BOOM = Failure("ValueError", "boom")
_OUTCOMES: tuple[Outcome, ...] = (
    Ack(),
    Ack(),
    Requeue(0, _BOOM),
    Requeue(5.5, _BOOM),
    Requeue(5.5),
    Requeue(0, _BOOM, suspect=True),
    Release(),
    Bury("enough", _BOOM),
)
_SPECS = (
    SubscriptionSpec(name="plain", wants=("a.>",)),
    SubscriptionSpec(name="ordered", wants=("a.*",), ordered=True),
    SubscriptionSpec(name="parking", wants=("a.b",), ordered=True, on_bury="park"),
)


@dataclass(eq=False)
class _Entry:
    """One event in one subscription."""

    place: int
    event_id: bytes
    key: str | None
    due: float
    delayed: bool = False
    state: Literal["waiting", "out", "dead", "done"] = "waiting"
    attempt: int = 1
    suspect: bool = False
    started: bool = False  # it has been out, and so it holds its key
    replayed: bool = False
    parked: bool = False
    alone: bool = False
    ends: float = 0.0
    delivery: Delivery | None = None


class _Model:
    """What one subscription must do."""

    def __init__(self, spec: SubscriptionSpec) -> None:
        self.spec = spec
        self.paused = False
        self.entries: dict[bytes, _Entry] = {}

    def candidates(self, now: float) -> Iterator[tuple[list[_Entry], bool]]:
        """Groups of which one delivery may be claimed at most, and whether one must be there."""
        lanes: dict[str, list[_Entry]] = {}
        for entry in self.entries.values():
            if entry.state == "done":
                continue
            if self.spec.ordered and entry.key is not None:
                lanes.setdefault(entry.key, []).append(entry)
            elif _claimable(entry, now):
                yield [entry], True
        for lane in lanes.values():
            heads = _heads(lane)
            ready = [entry for entry in heads if _claimable(entry, now)]
            if ready:
                yield ready, len(ready) == len(heads)

    def settle(self, entry: _Entry, outcome: Outcome, now: float) -> None:
        """What an outcome makes of an entry that is out."""
        entry.delivery = None
        match outcome:
            case Ack():
                entry.state = "done"
            case Release():
                entry.state = "waiting"
            case Requeue(after, failure, suspect):
                entry.state, entry.suspect, entry.due = "waiting", suspect, now + after
                entry.attempt += failure is not None
            case Bury():
                entry.state, entry.parked = "dead", self.spec.on_bury == "park" and entry.key is not None


def _claimable(entry: _Entry, now: float) -> bool:
    return entry.state == "waiting" and entry.due <= now and not entry.suspect


def _heads(lane: list[_Entry]) -> list[_Entry]:
    """Those of one key of which one may go: what has gone before, else the first, or what came back from the dead."""
    if any(entry.parked for entry in lane):
        return []
    waiting = [entry for entry in lane if entry.state in ("waiting", "out")]
    started = [entry for entry in waiting if entry.started]
    if started:
        return started
    first = min((entry for entry in waiting if not entry.replayed), key=lambda entry: entry.place, default=None)
    return [entry for entry in waiting if entry.replayed or entry is first]


class _Machine(RuleBasedStateMachine):
    """Publishes, works, crashes and mends at random."""

    make: Callable[[ManualClock], Transport]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.transport = type(self).make(self.clock)
        self.models = {spec.name: _Model(spec) for spec in _SPECS}
        self.sent: list[Envelope] = []
        self.held: list[tuple[str, Delivery]] = []
        self.alive: dict[str, float] = {}
        self.generation = {"x": 0, "y": 0, "z": 0}
        self.fence = -1

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run one call to its end."""
        return self.loop.run_until_complete(work)

    @property
    def now(self) -> float:
        """Wall time."""
        return self.clock.time()

    @property
    def desk(self) -> Inspectable:
        """The transport, as one that can be inspected."""
        assert isinstance(self.transport, Inspectable)
        return self.transport

    @initialize()
    def begin(self) -> None:
        """Open an empty store."""
        self.do(self.transport.open())
        assert list(self.do(self.transport.declare(_SPECS))) == []

    def teardown(self) -> None:
        """Work off everything, then close: nothing may be left over, and nothing lost."""
        try:
            if self.sent:
                self.drain()
        finally:
            self.do(self.transport.close())
            self.loop.close()

    # -- publishing

    @rule(key=st.sampled_from([None, "k", "l"]), delay=st.sampled_from(_DELAYS), name=st.sampled_from(["a.b", "a.c"]))
    def publish(self, key: str | None, delay: float, name: str) -> None:
        """An event that at least two subscriptions take."""
        envelope = Envelope(new_id(), name, "a", key, round(self.now * 1e6), 1, "application/json", b"{}")
        (result,) = self.do(self.transport.append([Outgoing(envelope, delay=delay)]))
        takers = [model for model in self.models.values() if model.spec.takes(name, "a")]
        assert isinstance(result, Stored)
        assert result.routes in (None, len(takers))
        self.sent.append(envelope)
        for model in takers:
            model.entries[envelope.id_bytes] = _Entry(
                len(self.sent), envelope.id_bytes, key, self.now + delay, delayed=delay > 0
            )

    @precondition(lambda self: self.sent)
    @rule(choice=st.integers(0, 1000))
    def publish_again(self, choice: int) -> None:
        """An id that is stored already."""
        envelope = self.sent[choice % len(self.sent)]
        (result,) = self.do(self.transport.append([Outgoing(envelope)]))
        assert isinstance(result, Duplicate)

    # -- working

    @rule(name=st.sampled_from(sorted(s.name for s in _SPECS)), who=st.sampled_from("xyz"), limit=st.integers(1, 4))
    def claim(self, name: str, who: str, limit: int) -> None:
        """An ordinary claim: nothing early, nothing twice, nothing out of order, and no less than there is."""
        model = self.models[name]
        groups = [] if model.paused else list(model.candidates(self.now))
        suspects = self.suspects(model)
        found = self.claimed(name, who, limit, alone=False)
        assert found.suspects == (bool(suspects) and not model.paused)
        taken = [model.entries[delivery.envelope.id_bytes] for delivery in found.deliveries]
        fresh = [entry.place for entry in taken if not (entry.started or entry.replayed or entry.delayed)]
        assert fresh == sorted(fresh)
        for entry in taken:
            (group,) = [group for group, _ in groups if entry in group] or [[]]
            assert group, f"{entry} was not to be had"
            groups = [pair for pair in groups if pair[0] is not group]
        assert len(taken) == limit or not any(certain for _, certain in groups), groups
        self.out(name, found, alone=False)
        if not model.spec.ordered and not model.paused and len(taken) < limit:
            later = [e.due for e in model.entries.values() if e.state == "waiting" and e.due > self.now]
            # Some servers count in milliseconds, and are never early.
            assert found.next_due == (pytest.approx(min(later) - self.now, abs=0.002) if later else None)

    @rule(name=st.sampled_from(sorted(s.name for s in _SPECS)), who=st.sampled_from("xyz"))
    def claim_alone(self, name: str, who: str) -> None:
        """One suspect, or nothing."""
        model = self.models[name]
        suspects = [] if model.paused else self.suspects(model)
        found = self.claimed(name, who, 3, alone=True)
        assert len(found.deliveries) == min(1, len(suspects))
        for delivery in found.deliveries:
            assert model.entries[delivery.envelope.id_bytes] in suspects
        self.out(name, found, alone=True)

    def suspects(self, model: _Model) -> list[_Entry]:
        """Those that wait to run alone."""
        return [e for e in model.entries.values() if e.state == "waiting" and e.suspect and e.due <= self.now]

    def claimed(self, name: str, who: str, limit: int, *, alone: bool) -> Claimed:
        """Claim as this owner's present incarnation."""
        owner = f"{who}{self.generation[who]}"
        self.alive[owner] = self.clock.monotonic() + _LEASE
        return self.do(self.transport.claim(name, owner=owner, limit=limit, lease=_LEASE, alone=alone))

    def out(self, name: str, found: Claimed, *, alone: bool) -> None:
        """Note what was given."""
        for delivery in found.deliveries:
            entry = self.models[name].entries[delivery.envelope.id_bytes]
            assert delivery.fence > self.fence
            assert (delivery.attempt, delivery.suspect) == (entry.attempt, alone)
            entry.state, entry.alone, entry.started, entry.delivery = "out", alone, True, delivery
            entry.ends = self.clock.monotonic() + _LEASE
            self.held.append((name, delivery))
        self.fence = max([self.fence, *(delivery.fence for delivery in found.deliveries)])

    @precondition(lambda self: self.held)
    @rule(choice=st.integers(0, 1000), outcome=st.sampled_from(_OUTCOMES))
    def settle(self, choice: int, outcome: Outcome) -> None:
        """Any delivery that was ever given and not settled, in time or late."""
        name, delivery = self.held.pop(choice % len(self.held))
        (result,) = self.do(self.transport.settle([(delivery, outcome)]))
        entry = self.models[name].entries[delivery.envelope.id_bytes]
        assert isinstance(result, Settled if entry.delivery is delivery else LeaseLost)
        if entry.delivery is delivery:
            self.models[name].settle(entry, outcome, self.now)

    @rule(who=st.sampled_from("xyz"))
    def renew(self, who: str) -> None:
        """All that this owner believes to hold."""
        owner = f"{who}{self.generation[who]}"
        mine = [(name, delivery) for name, delivery in self.held if delivery.owner == owner]
        renewer = self.transport.renewer()
        try:
            lost = list(renewer.renew([delivery for _, delivery in mine], _LEASE))
        finally:
            renewer.close()
        now = self.clock.monotonic()
        for name, delivery in mine:
            entry = self.models[name].entries[delivery.envelope.id_bytes]
            assert (delivery in lost) == (entry.delivery is not delivery)
            entry.ends = max(entry.ends, now + _LEASE)
            self.alive[owner] = now + _LEASE

    @rule(who=st.sampled_from("xyz"))
    def crash(self, who: str) -> None:
        """It never says another word; its successor has another name."""
        owner = f"{who}{self.generation[who]}"
        self.held = [(name, delivery) for name, delivery in self.held if delivery.owner != owner]
        self.generation[who] += 1

    @rule(seconds=st.sampled_from(_TICKS))
    def tick(self, seconds: float) -> None:
        """Time passes, and leases end."""
        self.clock.advance(seconds)
        now = self.clock.monotonic()
        for model in self.models.values():
            for entry in model.entries.values():
                delivery = entry.delivery
                if delivery is not None and self.ended(entry, delivery.owner, now):
                    entry.state, entry.suspect, entry.delivery = "waiting", True, None
                    entry.attempt += entry.alone
                    entry.due = self.now
        for who, number in self.generation.items():
            if self.alive.get(f"{who}{number}", now) < now:
                self.generation[who] += 1

    def ended(self, entry: _Entry, owner: str, now: float) -> bool:
        """Whether the lease has ended."""
        return (entry.ends if self.transport.traits.lease_of == "delivery" else self.alive[owner]) <= now

    # -- mending

    @precondition(lambda self: self.dead())
    @rule(choice=st.integers(0, 1000), way=st.sampled_from(["replay", "discard"]))
    def mend(self, choice: int, way: str) -> None:
        """Replay or discard one dead letter."""
        dead = self.dead()
        name, entry = dead[choice % len(dead)]
        query = DeadQuery(ids=(UUID(bytes=entry.event_id),))
        (letter,) = self.do(self.desk.dead(name, query))
        assert letter.attempts == entry.attempt
        act = self.desk.replay if way == "replay" else self.desk.discard
        assert self.do(act(name, [letter.id])) == 1
        assert self.do(act(name, [letter.id])) == 0
        entry.parked = entry.suspect = entry.started = False
        if way == "replay":
            entry.state, entry.attempt, entry.replayed, entry.due = "waiting", 1, True, self.now
        else:
            entry.state = "done"

    def dead(self) -> list[tuple[str, _Entry]]:
        """All dead letters."""
        return [(n, e) for n, model in self.models.items() for e in model.entries.values() if e.state == "dead"]

    @rule(name=st.sampled_from(sorted(s.name for s in _SPECS)))
    def pause_or_resume(self, name: str) -> None:
        """Turn the switch."""
        model = self.models[name]
        self.do((self.desk.resume if model.paused else self.desk.pause)(name))
        model.paused = not model.paused

    # -- what is always true

    @invariant()
    def nothing_is_lost_and_nothing_invented(self) -> None:
        """Every accepted event is, for every subscription, waiting, out, dead or done."""
        if not self.sent:
            return
        for stats in self.do(self.desk.stats()):
            entries = self.models[stats.name].entries.values()
            unfinished = sum(entry.state in ("waiting", "out") for entry in entries)
            assert (
                stats.backlog + stats.in_flight + stats.scheduled + stats.retrying + stats.parked_events == unfinished
            )
            assert stats.dead == sum(entry.state == "dead" for entry in entries)
            assert stats.paused == self.models[stats.name].paused

    def drain(self) -> None:
        """Whatever happened, everything that is not dead comes to its end."""
        for name, model in self.models.items():
            if model.paused:
                self.pause_or_resume(name)
        while self.dead():
            self.mend(0, "discard")
        self.held.clear()
        for _ in range(3):
            self.tick(13.0)
            for name in self.models:
                for number in range(3 * len(self.sent)):
                    before = len(self.held)
                    (self.claim(name, "x", 4) if number % 2 else self.claim_alone(name, "x"))
                    for _ in range(len(self.held) - before):
                        self.settle(before, Ack())
        left = [e for model in self.models.values() for e in model.entries.values() if e.state != "done"]
        assert left == []


def transport_machine(make: Callable[[ManualClock], Transport]) -> type[RuleBasedStateMachine]:
    """Return a machine that drives the transports that `make` returns: each on an empty store, not yet open."""
    return type("TransportMachine", (_Machine,), {"make": staticmethod(make)})
