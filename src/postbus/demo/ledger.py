"""Does it add up?  Compares, id by id, what was published with what each worker and each desk wrote down.  Pure.

Nothing here was counted by the bus, but for its dead letters and what it still holds: those are what it is asked about.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from .board import Accepted
from .records import Entry

__all__ = ["Account", "Evidence", "Holding", "Killed", "Ledger", "TakeOver", "reckon"]

# The subscription whose events are to be kept in order by aircraft.
ORDERED = "crews"
NAMED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What the bus says it holds for one subscription.

    Attributes:
        meant_for: the names of the events it takes.
        dead: the events of its dead letters.
        stored: the events that are unfinished: waiting, retrying, or running.
    """

    subscription: str
    meant_for: Collection[str]
    dead: Collection[UUID]
    stored: Collection[UUID]
    desk: str | None = None


@dataclass(frozen=True, slots=True)
class Killed:
    """A worker that was killed, and when."""

    worker: int
    pid: int
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that was written down in a run, each by who did it.

    Attributes:
        published: by the publisher, after `publish` returned or in its transaction.
        withdrawn: ids of events whose transaction was rolled back: nobody may have seen them.
        entries: by the workers.
        served: by the desks: desk, event and 'done' or 'repeat'.
        at_once: how many deliveries one worker runs at once, which is how many its death can repeat.
    """

    published: Sequence[Accepted]
    withdrawn: Collection[UUID]
    entries: Sequence[Entry]
    served: Sequence[tuple[str, UUID, str]]
    holdings: Sequence[Holding]
    killed: Sequence[Killed]
    at_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One subscription: `published == succeeded + dead + stored + len(missing)`, and `missing` should be empty.

    Attributes:
        stored: published, not done, and still held by the bus.
        unsettled: done, but the worker ended before the bus heard of it; they will run again.
        missing: neither done, nor dead, nor held.
        phantoms: done or dead, and never published.
        repeated: how many were done more than once.
        failed: runs that ended with an error.
        recognised: repeats that the desk knew by their idempotency key, and did nothing for.
        unserved: done by a worker's word, though the desk never heard of it.
    """

    subscription: str
    published: int
    succeeded: int
    dead: int
    stored: int
    unsettled: int
    missing: tuple[str, ...]
    phantoms: tuple[str, ...]
    repeated: int
    failed: int
    recognised: int
    unserved: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TakeOver:
    """What a killed worker left behind: `seconds` is until the last was done by another, None while one is not."""

    worker: int
    pid: int
    unfinished: int
    taken: int
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The whole run."""

    published: int
    withdrawn: int
    accounts: tuple[Account, ...]
    take_overs: tuple[TakeOver, ...]
    aircraft: int
    out_of_order: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def adds_up(self) -> bool:
        """Whether every published event is accounted for at every subscription."""
        return not self.problems


def reckon(evidence: Evidence) -> Ledger:
    """Compare all records."""
    by_subscription: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        by_subscription[entry.subscription].append(entry)
    accounts = tuple(
        _account(evidence, holding, by_subscription[holding.subscription]) for holding in evidence.holdings
    )
    aircraft, out_of_order = _order(evidence.published, by_subscription[ORDERED])
    seen = sorted(str(e.event) for e in evidence.entries if e.event in evidence.withdrawn)
    return Ledger(
        published=len(evidence.published),
        withdrawn=len(evidence.withdrawn),
        accounts=accounts,
        take_overs=tuple(_take_over(killed, evidence.entries) for killed in evidence.killed),
        aircraft=aircraft,
        out_of_order=out_of_order,
        problems=(
            *(problem for account in accounts for problem in _problems(account)),
            *([f"{ORDERED}: out of order: {_some(out_of_order)}"] if out_of_order else []),
            *_too_often(evidence, accounts),
            *([f"rolled back, and yet delivered: {_some(seen)}"] if seen else []),
        ),
    )


def _account(evidence: Evidence, holding: Holding, entries: Sequence[Entry]) -> Account:
    meant = {event.id: event for event in evidence.published if event.name in holding.meant_for}
    done = Counter(entry.event for entry in entries if entry.what == "done")
    dead, stored = set(holding.dead), set(holding.stored)
    undone = meant.keys() - done.keys() - dead
    served = [(id_, says) for desk, id_, says in evidence.served if desk == holding.desk]
    known = {id_ for id_, _ in served}
    return Account(
        subscription=holding.subscription,
        published=len(meant),
        succeeded=len((meant.keys() & done.keys()) - dead),
        dead=len(meant.keys() & dead),
        stored=len(undone & stored),
        unsettled=len((done.keys() - dead) & stored),
        missing=tuple(_named(meant[id_]) for id_ in sorted(undone - stored)),
        phantoms=tuple(str(id_) for id_ in sorted((done.keys() | dead) - meant.keys())),
        repeated=sum(1 for times in done.values() if times > 1),
        failed=sum(1 for entry in entries if entry.what == "failed"),
        recognised=sum(1 for _, says in served if says == "repeat"),
        unserved=tuple(_named(meant[id_]) for id_ in done if id_ in meant and id_ not in known) if holding.desk else (),
    )


def _named(event: Accepted) -> str:
    return f"{event.name.rpartition('.')[2]} {event.flight} ({event.id})"


def _problems(account: Account) -> Iterable[str]:
    if account.missing:
        total = account.succeeded + account.dead + account.stored
        found = f"published {account.published}, accounted for {total}"
        yield f"{account.subscription}: {found}; missing: {_some(account.missing)}"
    if account.phantoms:
        yield f"{account.subscription}: delivered, but never published: {_some(account.phantoms)}"
    if account.unserved:
        yield f"{account.subscription}: done by the worker's record, unknown to the desk: {_some(account.unserved)}"


def _too_often(evidence: Evidence, accounts: Sequence[Account]) -> Iterable[str]:
    repeated, most = sum(account.repeated for account in accounts), evidence.at_once * len(evidence.killed)
    if repeated > most:
        yield f"{repeated} deliveries were done twice: {len(evidence.killed)} deaths explain at most {most}"


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _order(published: Sequence[Accepted], entries: Iterable[Entry]) -> tuple[int, tuple[str, ...]]:
    """How many aircraft were seen, and where a line about an event was written after one about a later event."""
    places = {event.id: (place, event) for place, event in enumerate(published)}
    entries = sorted(entries, key=lambda entry: entry.at)
    # A dead letter gives its turn away, and may be replayed any time later.
    excused = {entry.event for entry in entries if entry.what == "failed"}
    latest: dict[str, int] = {}
    wrong = []
    for entry in entries:
        place, event = places.get(entry.event, (0, None))
        if event is None or event.aircraft is None or entry.event in excused:
            continue
        if place < latest.get(event.aircraft, -1):
            wrong.append(_named(event))
        latest[event.aircraft] = max(place, latest.get(event.aircraft, -1))
    return len(latest), tuple(wrong)


def _take_over(killed: Killed, entries: Iterable[Entry]) -> TakeOver:
    """Follow what a killed worker had started: whoever does it afterwards has taken it over."""
    left: set[tuple[str, UUID]] = set()
    taken: dict[tuple[str, UUID], float] = {}
    for entry in sorted(entries, key=lambda entry: entry.at):
        delivery = (entry.subscription, entry.event)
        if entry.pid == killed.pid:
            (left.add if entry.what == "start" else left.discard)(delivery)
        elif entry.at > killed.at and entry.what == "done" and delivery in left:
            taken.setdefault(delivery, entry.at)
    seconds = max(taken.values(), default=killed.at) - killed.at if len(taken) == len(left) else None
    return TakeOver(killed.worker, killed.pid, len(left), len(taken), seconds)
