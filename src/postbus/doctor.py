"""What may be wrong with a program, its subscriptions and its transport, found by looking.  Changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from .bus import Bus
from .errors import PostbusError
from .finding import Examinable, Finding
from .hold import OUTBOX
from .inspection import Health, Stats, inspectable
from .outbox import Outbox
from .subscription import Subscriber
from .transport import SubscriptionInfo, Traits, WorkerInfo

__all__ = ["examine"]

# Orchestrators wait 30 s by default between SIGTERM and SIGKILL.
_KILL_AFTER = 30.0
_SLOW = 0.25
_OLD = 3600.0
_LATE_RELAY = 60.0
_SKEW = 5.0
_TURNS, _TURN, _LATE = 20, 0.001, 0.05


async def examine(bus: Bus) -> list[Finding]:
    """Look at everything that can be seen from here.  The bus need not be open; nothing is declared."""
    found = [*_program(bus), _traits(bus.transport.traits)]
    try:
        async with bus.opened(declare=False):
            if bus.outbox is not None:
                found += await _outbox(bus, bus.outbox)
            found += await _store(bus)
    except PostbusError as error:
        found.append(_error("connection", f"{bus!r} cannot be opened: {error}"))
    return found


# -- the program


def _program(bus: Bus) -> Iterator[Finding]:
    if not bus.subscribers:
        yield _note("subscribers", "this program declares none", "@bus.subscriber(...) gives workers something to run")
    for subscriber in bus.subscribers:
        yield from _subscriber(subscriber)
    grace, lease = bus.worker_settings.grace, bus.worker_settings.lease
    if grace >= _KILL_AFTER:
        yield _warning(
            "grace",
            f"{grace:g} s, and most orchestrators kill after {_KILL_AFTER:g} s",
            "lower grace=, or raise their limit (terminationGracePeriodSeconds, TimeoutStopSec)",
        )
    if lease < 1:
        yield _warning(
            "lease",
            f"{lease:g} s: a worker that pauses for so long loses what it holds",
            "15 s or more in production",
        )


def _subscriber(subscriber: Subscriber) -> Iterator[Finding]:
    what = f"subscriber {subscriber.name}"
    if subscriber.retry.attempts == 1:
        yield _note(what, "attempts=1: the first error buries", "Retry(attempts=...) tries again")
    if subscriber.ordered and subscriber.on_bury == "park":
        yield _note(
            what,
            "a dead letter holds its key's later events until it is replayed or discarded",
            "watch parked in `postbus status`",
        )
    if any(pattern.text == ">" for pattern in subscriber.interest.patterns):
        yield _note(what, "takes every event there is, of other programs too")


def _traits(traits: Traits) -> Finding:
    what = "durability"
    match traits.durable:
        case "memory":
            return _warning(what, f"{traits.name}:// keeps events in this process only", "sqlite:///app.db survives it")
        case "os":
            return _warning(
                what,
                "what is accepted survives a killed process, not a power loss",
                "durability=disk, where the transport has it",
            )
        case "disk":
            return _ok(what, "what is accepted is on disk")
        case "server":
            return _note(what, "as the server is configured")


# -- the transport


async def _store(bus: Bus) -> list[Finding]:
    health = await bus.health()
    if not health.connected:
        return [_error("connection", f"{bus!r} does not answer: {health.error}")]
    store = inspectable(bus.transport)
    stats = await bus.stats()
    infos = {info.name: info for info in await store.subscriptions()}
    workers = await store.workers()
    found = [_answers(bus, health), *_declared(bus, infos), *_standing(stats), *_workers(workers)]
    if isinstance(bus.transport, Examinable):
        found += await bus.transport.examine()
    return [*found, await _loop()]


async def _outbox(bus: Bus, outbox: Outbox) -> list[Finding]:
    traits = outbox.transport.traits
    found = [] if traits.durable == "disk" else [_traits(traits)]
    stands = await outbox.stats()
    waits = f"{stands.pending:,} wait" + (f", the oldest for {stands.oldest_age:.0f} s" if stands.oldest_age else "")
    if stands.paused:
        found.append(_warning("outbox", f"is paused, {waits}", f"postbus subs resume {OUTBOX}"))
    elif stands.trouble:
        found.append(_error("outbox", f"{waits}: {stands.trouble}", "relays go on as soon as that is mended"))
    elif not stands.relays and stands.pending:
        found.append(_error("outbox", f"{waits}, and no relay runs", "postbus worker, or postbus relay"))
    elif not stands.relays:
        found.append(_note("outbox", "no relay runs", "postbus worker, or postbus relay"))
    elif (stands.oldest_age or 0.0) > _LATE_RELAY:
        found.append(_warning("outbox", f"{waits}", "is the transport slow, or full?"))
    else:
        found.append(_ok("outbox", f"{waits}; {len(stands.relays)} relays"))
    if stands.dead:
        advice = f"postbus dead list --sub {OUTBOX}; replay or discard them"
        found.append(_warning("outbox", f"{stands.dead:,} dead letters: {bus!r} does not take them", advice))
    if isinstance(outbox.transport, Examinable):
        found += [replace(one, what=f"outbox: {one.what}") for one in await outbox.transport.examine()]
    return found


def _answers(bus: Bus, health: Health) -> Finding:
    latency = health.latency or 0.0
    text = f"{bus!r} answers in {latency * 1000:.1f} ms"
    if latency > _SLOW:
        return _warning("connection", text, "every publish waits for it at least once")
    return _ok("connection", text)


def _declared(bus: Bus, infos: dict[str, SubscriptionInfo]) -> Iterator[Finding]:
    ours = {subscriber.name: subscriber for subscriber in bus.subscribers}
    for name, subscriber in ours.items():
        what, info = f"subscription {name}", infos.get(name)
        if info is None and subscriber.was not in infos:
            yield _error(
                what, "is not declared: what is published now does not reach it", "postbus setup, before traffic"
            )
        elif info is not None and set(info.spec.wants) != set(subscriber.interest.wants):
            theirs, wanted = ", ".join(info.spec.wants), ", ".join(subscriber.interest.wants)
            yield _warning(
                what,
                f"takes {theirs}, and this program wants {wanted}",
                "postbus setup, if this program is the newest",
            )
    for name in infos.keys() - ours.keys():
        yield _warning(
            f"subscription {name}",
            "is durable, and no subscriber of this program has its name",
            f"was={name!r} if it was renamed; `postbus subs retire` if it is gone; nothing if another program runs it",
        )
    if ours and ours.keys() == infos.keys():
        yield _ok("subscriptions", f"{len(ours)} declared")


def _standing(stats: Stats) -> Iterator[Finding]:
    for name, one in stats.items():
        what = f"subscription {name}"
        if one.paused:
            yield _warning(what, f"is paused, with {one.backlog:,} waiting", "postbus subs resume")
        elif one.backlog and not one.workers:
            yield _error(what, f"{one.backlog:,} wait, and no worker runs it", "postbus worker")
        elif one.oldest_age is not None and one.oldest_age > _OLD:
            hours = one.oldest_age / 3600
            yield _warning(
                what, f"the oldest of {one.backlog:,} has waited for {hours:.1f} h", "more workers, or more concurrency"
            )
        if one.trimmed:
            yield _error(
                what,
                f"{one.trimmed:,} events were removed from the server by somebody else before it was done with them",
                "no XTRIM, XDEL, MAXLEN or eviction on what postbus keeps",
            )
        if one.dead:
            yield _warning(what, f"{one.dead:,} dead letters", "postbus dead list; replay or discard them")
        if one.parked:
            yield _warning(what, f"{one.parked:,} keys are parked, with {one.parked_events:,} events")


def _workers(workers: Sequence[WorkerInfo]) -> Iterator[Finding]:
    versions = sorted({worker.version for worker in workers})
    if len(versions) > 1:
        yield _note("workers", f"of {len(versions)} versions: {', '.join(versions)}")
    now = datetime.now(UTC)
    if any(w.seen_at is not None and (w.seen_at - now).total_seconds() > _SKEW for w in workers):
        yield _warning(
            "clock", "workers were seen in the future: this machine's clock is behind", "run an NTP client everywhere"
        )
    yield _ok("workers", f"{len(workers)} live") if workers else _note("workers", "none is live")


async def _loop() -> Finding:
    """How late the event loop turns: a machine without time to spare misses leases."""
    began = time.monotonic()
    for _ in range(_TURNS):
        await asyncio.sleep(_TURN)
    late = (time.monotonic() - began) / _TURNS - _TURN
    text = f"turns {late * 1000:.1f} ms late on average"
    return (
        _warning("event loop", text, "leases need a machine with time to spare")
        if late > _LATE
        else _ok("event loop", text)
    )


def _ok(what: str, text: str) -> Finding:
    return Finding(level="ok", what=what, text=text)


def _note(what: str, text: str, advice: str = "") -> Finding:
    return Finding(level="note", what=what, text=text, advice=advice)


def _warning(what: str, text: str, advice: str = "") -> Finding:
    return Finding(level="warning", what=what, text=text, advice=advice)


def _error(what: str, text: str, advice: str = "") -> Finding:
    return Finding(level="error", what=what, text=text, advice=advice)
