"""What may be wrong with a program, its subscriptions and its transport, found by looking.  Changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol, runtime_checkable

from .bus import Bus
from .errors import PostbusError
from .inspection import Health, Stats, inspectable
from .subscription import Subscriber
from .transport import SubscriptionInfo, Traits, WorkerInfo

__all__ = ["Diagnosed", "Finding", "examine"]

Level = Literal["ok", "note", "warning", "error"]

# Orchestrators wait 30 s by default between SIGTERM and SIGKILL.
_KILL_AFTER = 30.0
_SLOW = 0.25
_OLD = 3600.0
_SKEW = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: 'ok', 'note' (worth knowing), 'warning' (may lose or delay events) or 'error' (does).
        what: what was looked at, in a word or two.
        text: what was found.
        advice: the next step, where there is one.
    """

    level: Level
    what: str
    text: str
    advice: str = ""


@runtime_checkable
class Diagnosed(Protocol):
    """A transport that knows more about its server than the contract says."""

    async def findings(self) -> Sequence[tuple[Level, str, str, str]]:
        """The fields of `Finding`, for each setting that was looked at."""
        ...


async def examine(bus: Bus) -> list[Finding]:
    """Look at everything that can be seen from here.  The bus need not be open; nothing is declared."""
    found = [*_program(bus), *_traits(bus.transport.traits)]
    try:
        async with bus.opened(declare=False):
            found += await _store(bus)
    except PostbusError as error:
        found.append(Finding(level="error", what="connection", text=f"{bus!r} cannot be opened: {error}"))
    return found


# -- the program


def _program(bus: Bus) -> Iterator[Finding]:
    subscribers = bus.subscribers
    if not subscribers:
        yield Finding(
            level="note", what="subscribers", text="this program declares none",
            advice="workers have nothing to run; @bus.subscriber(...) declares one",
        )  # fmt: skip
    for subscriber in subscribers:
        yield from _subscriber(subscriber)
    grace = bus.worker_settings.grace
    if grace >= _KILL_AFTER:
        yield Finding(
            level="warning", what="grace", text=f"{grace:g} s, and most orchestrators kill after {_KILL_AFTER:g} s",
            advice="lower grace=, or raise the orchestrator's own limit (terminationGracePeriodSeconds, TimeoutStopSec)",
        )  # fmt: skip
    lease = bus.worker_settings.lease
    if lease < 1:
        yield Finding(
            level="warning", what="lease", text=f"{lease:g} s: a worker that pauses for so long loses what it holds",
            advice="15 s or more in production",
        )  # fmt: skip


def _subscriber(subscriber: Subscriber) -> Iterator[Finding]:
    what = f"subscriber {subscriber.name}"
    if subscriber.retry.attempts == 1:
        yield Finding(
            level="note", what=what, text="attempts=1: the first error buries", advice="Retry(attempts=...) tries again"
        )
    if subscriber.ordered and subscriber.on_bury == "park":
        yield Finding(
            level="note", what=what, text="a dead letter holds its key's later events until it is replayed or discarded",
            advice="watch parked in `postbus status`",
        )  # fmt: skip
    if any(pattern.text == ">" for pattern in subscriber.interest.patterns):
        yield Finding(level="note", what=what, text="takes every event there is, of other programs too")


def _traits(traits: Traits) -> Iterator[Finding]:
    match traits.durable:
        case "memory":
            yield Finding(
                level="warning", what="durability", text=f"{traits.name}:// keeps events in this process only",
                advice="sqlite:///app.db survives the process",
            )  # fmt: skip
        case "os":
            yield Finding(
                level="warning", what="durability", text="what is accepted survives a killed process, not a power loss",
                advice="durability=disk, where the transport has it",
            )  # fmt: skip
        case "disk":
            yield Finding(level="ok", what="durability", text="what is accepted is on disk")
        case "server":
            yield Finding(level="note", what="durability", text="as the server is configured")


# -- the transport


async def _store(bus: Bus) -> list[Finding]:
    health = await bus.health()
    if not health.connected:
        return [Finding(level="error", what="connection", text=f"{bus!r} does not answer: {health.error}")]
    store = inspectable(bus.transport)
    stats = await bus.stats()
    infos = {info.name: info for info in await store.subscriptions()}
    workers = await store.workers()
    found = [*_answers(bus, health), *_declared(bus, infos), *_standing(stats), *_workers(workers)]
    if isinstance(bus.transport, Diagnosed):
        found += [Finding(level=f[0], what=f[1], text=f[2], advice=f[3]) for f in await bus.transport.findings()]
    return [*found, await _loop()]


def _answers(bus: Bus, health: Health) -> Iterator[Finding]:
    latency = health.latency or 0.0
    slow = latency > _SLOW
    yield Finding(
        level="warning" if slow else "ok", what="connection", text=f"{bus!r} answers in {latency * 1000:.1f} ms",
        advice="every publish waits for the transport at least once" if slow else "",
    )  # fmt: skip


def _declared(bus: Bus, infos: dict[str, SubscriptionInfo]) -> Iterator[Finding]:
    ours = {subscriber.name: subscriber for subscriber in bus.subscribers}
    for name, subscriber in ours.items():
        info = infos.get(name)
        if info is None and subscriber.was not in infos:
            yield Finding(
                level="error", what=f"subscription {name}", text="is not declared: what is published now does not reach it",
                advice="postbus setup, before traffic",
            )  # fmt: skip
        elif info is not None and set(info.spec.wants) != set(subscriber.interest.wants):
            yield Finding(
                level="warning", what=f"subscription {name}",
                text=f"takes {', '.join(info.spec.wants)}, and this program wants {', '.join(subscriber.interest.wants)}",
                advice="postbus setup, if this program is the newest",
            )  # fmt: skip
    for name in infos.keys() - ours.keys():
        yield Finding(
            level="warning", what=f"subscription {name}", text="is durable, and no subscriber of this program has its name",
            advice=f"was={name!r} in the code if it was renamed, `postbus subs retire` if it is gone, nothing if it is "
            f"another program's",
        )  # fmt: skip
    if ours and ours.keys() == infos.keys():
        yield Finding(level="ok", what="subscriptions", text=f"{len(ours)} declared")


def _standing(stats: Stats) -> Iterator[Finding]:
    for name, one in stats.items():
        what = f"subscription {name}"
        if one.paused:
            yield Finding(level="warning", what=what, text=f"is paused, with {one.backlog:,} waiting", advice="postbus subs resume")
        elif one.backlog and not one.workers:
            yield Finding(level="error", what=what, text=f"{one.backlog:,} wait, and no worker runs it", advice="postbus worker")
        elif one.oldest_age is not None and one.oldest_age > _OLD:
            yield Finding(
                level="warning", what=what, text=f"the oldest of {one.backlog:,} has waited for {one.oldest_age / 3600:.1f} h",
                advice="more workers (-w), or a higher concurrency",
            )  # fmt: skip
        if one.dead:
            yield Finding(
                level="warning", what=what, text=f"{one.dead:,} dead letters",
                advice="postbus dead list; replay or discard them",
            )  # fmt: skip
        if one.parked:
            yield Finding(level="warning", what=what, text=f"{one.parked:,} keys are parked, with {one.parked_events:,} events")


def _workers(workers: Sequence[WorkerInfo]) -> Iterator[Finding]:
    versions = {worker.version for worker in workers}
    if len(versions) > 1:
        yield Finding(level="note", what="workers", text=f"of {len(versions)} versions: {', '.join(sorted(versions))}")
    ahead = [w for w in workers if w.seen_at is not None and (w.seen_at - datetime.now(UTC)).total_seconds() > _SKEW]
    if ahead:
        yield Finding(
            level="warning", what="clock", text="workers were seen in the future: this machine's clock is behind theirs",
            advice="run an NTP client on every machine",
        )  # fmt: skip
    yield Finding(level="ok" if workers else "note", what="workers", text=f"{len(workers)} live")


async def _loop() -> Finding:
    """How late the event loop turns: a machine without time to spare misses leases."""
    began = time.monotonic()
    for _ in range(20):
        await asyncio.sleep(0.001)
    late = (time.monotonic() - began) / 20 - 0.001
    level: Level = "warning" if late > 0.05 else "ok"
    return Finding(level=level, what="event loop", text=f"turns {late * 1000:.1f} ms late on average")
