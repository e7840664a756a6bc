"""Why an event runs, or does not: what every subscription has to say of it, in a sentence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from .clock import Clock
from .delivery import DeadLetter
from .envelope import Envelope
from .failure import one_line
from .inspection import Events, inspectable
from .journal import Journal
from .trail import Attempt
from .transport import DeadQuery, EventQuery, Inspectable, StoredEvent, SubscriptionInfo, SubscriptionStats, Transport

__all__ = ["Explainer", "Explanation", "Standing"]

_State = Literal["ready", "waiting", "scheduled", "retrying", "running", "dead", "done"]

# Attempts that are shown of one event, and events that are searched for who holds a key.
_ATTEMPTS = 500
_HOLDERS = 500
# What is most in need of somebody is said first.
_ORDER: Sequence[_State] = ("dead", "waiting", "retrying", "ready", "scheduled", "running", "done")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one subscription stands with one event.

    Attributes:
        subscription: its name.
        state: as in `StoredEvent.states`; 'done' where nothing is left to do.
        because: why, as the rest of a sentence that begins with the subscription.
        remedy: the command that would change it, or None.
        letter: the dead letter, or None.
        due_at: when it is to run again, where that is known; aware, UTC.
        attempts: what the journal knows, oldest first.
    """

    subscription: str
    state: _State
    because: str
    remedy: str | None = None
    letter: DeadLetter | None = None
    due_at: datetime | None = None
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is known of one event.

    Attributes:
        event_id: whose.
        envelope: what was published; None when it is no longer stored.
        summary: one sentence.
        standings: of the subscriptions that take it, those that need somebody first.
        attempts: of all subscriptions, oldest first.
    """

    event_id: UUID
    envelope: Envelope | None
    summary: str
    standings: tuple[Standing, ...] = ()
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class _Scene:
    """What was read for one explanation."""

    store: Inspectable
    now: datetime
    stored: StoredEvent
    infos: Mapping[str, SubscriptionInfo]
    stats: Mapping[str, SubscriptionStats]
    letters: Mapping[str, DeadLetter]
    attempts: Mapping[str, tuple[Attempt, ...]] = field(default_factory=dict)


class Explainer:
    """Explains the events of one bus.  Reads only what everybody may read."""

    def __init__(
        self, opened: Callable[[], Awaitable[Transport]], events: Events, journal: Journal, clock: Clock
    ) -> None:
        self._opened = opened
        self._events = events
        self._journal = journal
        self._clock = clock

    async def explain(self, event_id: UUID) -> Explanation:
        """Say how every subscription stands with this event, and why."""
        store = inspectable(await self._opened())
        attempts = tuple(reversed(await self._journal.attempts(event_id, limit=_ATTEMPTS)))
        stored = await self._events.get(event_id)
        if stored is None:
            return _of_the_gone(event_id, attempts)
        scene = _Scene(
            store,
            datetime.fromtimestamp(self._clock.time(), UTC),
            stored,
            {info.name: info for info in await store.subscriptions()},
            {stats.name: stats for stats in await store.stats()},
            {letter.subscription: letter for letter in await store.dead(None, DeadQuery(ids=(event_id,)))},
            _by_subscription(attempts),
        )
        envelope = stored.envelope
        taking = [info for info in scene.infos.values() if info.spec.takes(envelope.name, envelope.topic)]
        standings = [await _standing(scene, info) for info in taking]
        standings.sort(key=lambda standing: (_ORDER.index(standing.state), standing.subscription))
        summary = _summary(envelope.name, standings)
        return Explanation(
            event_id=event_id, envelope=envelope, summary=summary, standings=tuple(standings), attempts=attempts
        )


def _by_subscription(attempts: Sequence[Attempt]) -> dict[str, tuple[Attempt, ...]]:
    found: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        found.setdefault(attempt.subscription, []).append(attempt)
    return {name: tuple(some) for name, some in found.items()}


# -- one subscription


async def _standing(scene: _Scene, info: SubscriptionInfo) -> Standing:
    state = scene.stored.states.get(info.name)
    attempts = scene.attempts.get(info.name, ())
    match state:
        case None:
            found = _done(scene, info, attempts)
        case "dead":
            found = _dead(scene, info)
        case "waiting":
            found = await _waiting(scene, info)
        case "retrying" | "scheduled":
            found = _later(scene, info, state, attempts)
        case "running":
            found = Standing(subscription=info.name, state="running", because="is running it now")
        case _:
            found = _ready(scene, info)
    return replace(found, attempts=attempts)


def _ready(scene: _Scene, info: SubscriptionInfo) -> Standing:
    stats = scene.stats.get(info.name)
    if info.paused:
        return Standing(
            subscription=info.name,
            state="ready",
            because="is paused, and does not run it until it is resumed",
            remedy=f"postbus subs resume {info.name}",
        )
    if stats is None or not stats.workers:
        return Standing(
            subscription=info.name,
            state="ready",
            because="has it ready, and no worker runs this subscription",
            remedy=f"postbus worker -s {info.name}",
        )
    workers = "one worker" if stats.workers == 1 else f"{stats.workers} workers"
    because = f"has it ready for {workers}, with {stats.backlog} ready in all and {stats.in_flight} running"
    return Standing(subscription=info.name, state="ready", because=because)


def _dead(scene: _Scene, info: SubscriptionInfo) -> Standing:
    letter = scene.letters.get(info.name)
    if letter is None:  # it was replayed or discarded while we looked
        return Standing(subscription=info.name, state="dead", because="has just buried it")
    failure = "" if letter.failure is None else f" ({_short(letter.failure.error, letter.failure.message)})"
    times = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
    return Standing(
        subscription=info.name,
        state="dead",
        because=f"buried it at {_clock(letter.buried_at)} after {times}: {one_line(letter.reason)}{failure}",
        remedy=f"postbus dead replay {letter.id}",
        letter=letter,
    )


async def _waiting(scene: _Scene, info: SubscriptionInfo) -> Standing:
    envelope = scene.stored.envelope
    key = one_line(envelope.key or "", 60)
    if info.spec.on_bury == "park":
        parking = await scene.store.dead(info.name, DeadQuery(key=envelope.key), limit=_HOLDERS)
        letter = next((one for one in parking if one.envelope.topic == envelope.topic), None)
        if letter is not None:
            return Standing(
                subscription=info.name,
                state="waiting",
                because=f"waits for key {key!r}, which dead letter {letter.id} holds ({one_line(letter.reason)})",
                remedy=f"postbus dead replay {letter.id}",
                letter=letter,
            )
    beside = await scene.store.events(EventQuery(key=envelope.key), limit=_HOLDERS)
    holders = [
        one
        for one in beside
        if one.envelope.topic == envelope.topic
        and one.envelope.id_bytes != envelope.id_bytes
        and one.states.get(info.name) in ("running", "retrying", "ready", "scheduled")
    ]
    if not holders:
        return Standing(subscription=info.name, state="waiting", because=f"waits for key {key!r} to be free")
    holder = holders[-1]
    doing = {"running": "runs now", "retrying": "failed and is to be tried again", "ready": "is ready to run"}
    what = doing.get(holder.states[info.name], "is not due yet")
    because = f"waits for key {key!r}, which event {holder.envelope.id} holds: it {what}"
    if info.paused:
        because += ", and the subscription is paused"
    return Standing(subscription=info.name, state="waiting", because=because)


def _later(
    scene: _Scene, info: SubscriptionInfo, state: Literal["retrying", "scheduled"], attempts: Sequence[Attempt]
) -> Standing:
    last = attempts[-1] if attempts else None
    due = last.due_at if state == "retrying" and last is not None else None
    when = "later" if due is None else f"in {_span(max(0.0, (due - scene.now).total_seconds()))}"
    stats = scene.stats.get(info.name)
    if due is None and stats is not None and stats.next_due is not None:
        when = f"in {_span(stats.next_due)}"
        if stats.retrying + stats.scheduled == 1:  # then it is this one
            due = scene.now + timedelta(seconds=stats.next_due)
        else:
            when += " at the earliest"
    if state == "scheduled":
        because = f"has it scheduled: it is due {when}"
    elif last is None or last.failure is None:
        because = f"runs it again {when}"
    else:
        failed = _short(last.failure.error, last.failure.message)
        because = f"runs it again {when}: attempt {last.attempt} failed ({failed})"
    if info.paused:
        because += ", and the subscription is paused"
    return Standing(subscription=info.name, state=state, because=because, due_at=due)


def _done(scene: _Scene, info: SubscriptionInfo, attempts: Sequence[Attempt]) -> Standing:
    handled = next((one for one in reversed(attempts) if one.outcome == "handled"), None)
    if handled is not None:
        at = f"was done with it at {_clock(handled.started_at)} in {_span(handled.took)}"
        because = at if handled.attempt == 1 else f"{at}, at attempt {handled.attempt}"
    elif info.declared_at is not None and info.declared_at > scene.stored.envelope.time:
        because = f"was declared at {_clock(info.declared_at)}, after it was published; nothing is left to do"
    else:
        because = "is done with it"
    return Standing(subscription=info.name, state="done", because=because)


# -- in words


def _summary(name: str, standings: Sequence[Standing]) -> str:
    left = [standing for standing in standings if standing.state != "done"]
    if not standings:
        return f"No subscription takes {name}."
    if not left:
        if len(standings) == 1:
            return f"{standings[0].subscription} {standings[0].because}."
        return f"All {len(standings)} subscriptions that take {name} are done with it."
    said = "; ".join(f"{standing.subscription} {standing.because}" for standing in left[:3])
    more = "" if len(left) <= 3 else f"; and {len(left) - 3} more"
    return f"{said}{more}."


def _of_the_gone(event_id: UUID, attempts: tuple[Attempt, ...]) -> Explanation:
    standings = []
    for name, some in _by_subscription(attempts).items():
        last = some[-1]
        because = f"last ran it at {_clock(last.started_at)} in {_span(last.took)}: {last.outcome}"
        standings.append(Standing(subscription=name, state="done", because=because, attempts=some))
    if standings:
        said = "; ".join(f"{standing.subscription} {standing.because}" for standing in standings)
        summary = f"It is no longer stored, so every subscription is done with it; {said}."
    else:
        summary = (
            "It is not stored, and no attempt is remembered: every subscription is done with it, none took it, or it "
            "was never published here."
        )
    return Explanation(event_id=event_id, envelope=None, summary=summary, standings=tuple(standings), attempts=attempts)


def _short(error: str, message: str) -> str:
    return one_line(f"{error.rpartition('.')[2]}: {message}", 120)


def _clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _span(seconds: float) -> str:
    if seconds < 0.0005:
        return "less than 1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
