"""What can be done: each action asks first, saying how much and with which command, and then does it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from ..event import valid_name
from ..hold import OUTBOX
from .commands import command
from .counting import count_up
from .crew import asking, telling
from .letters import Chosen
from .payload import as_text, parsed
from .question import Question
from .shown import shown_of
from .tasks import Task
from .visit import NoSuchPage, Visit
from .waiting import Waiting

__all__ = ["ACTS", "Act", "Refused"]

_PAGE = 500

_START = datetime(1970, 1, 1, tzinfo=UTC)


class Refused(Exception):
    """It cannot be done, and why."""


@dataclass(frozen=True, slots=True)
class Act:
    """One action: its question, and what does it; that returns a task or a sentence."""

    ask: Callable[[Visit], Awaitable[Question]]
    do: Callable[[Visit], Awaitable[Task | str]]


# -- subscriptions


def _subscription(visit: Visit) -> str:
    name = valid_name(visit.text("sub"), "subscription name")
    if name not in visit.snapshot.subscriptions and (name != OUTBOX or visit.bus.outbox is None):
        raise NoSuchPage(f"no subscription is named {name}")
    return name


async def _ask_pause(visit: Visit) -> Question:
    name = _subscription(visit)
    return Question(
        title=f"Pause {name}?",
        text="Nothing is delivered to it until it is resumed. What is published meanwhile is kept; what runs now ends.",
        button="Pause",
        command=command("subs", "pause", visit.desk.target, name),
        fields=(("sub", name),),
    )


async def _pause(visit: Visit) -> str:
    name = _subscription(visit)
    await visit.bus.subscriptions.pause(name)
    return f"{name} is paused."


async def _ask_resume(visit: Visit) -> Question:
    name = _subscription(visit)
    waiting = visit.snapshot.stats_of(name).backlog
    return Question(
        title=f"Resume {name}?",
        text=f"{waiting:,} events wait and will be delivered." if waiting else "Nothing waits for it now.",
        button="Resume",
        command=command("subs", "resume", visit.desk.target, name),
        fields=(("sub", name),),
    )


async def _resume(visit: Visit) -> str:
    name = _subscription(visit)
    await visit.bus.subscriptions.resume(name)
    return f"{name} goes on."


def _since(visit: Visit) -> datetime:
    """From when on; the form offers spans, and a time in UTC."""
    text = visit.text("from") or "3600"
    if text == "start":
        return _START
    if text.isascii() and text.isdigit():
        return datetime.now(UTC) - timedelta(seconds=min(int(text[:9]), 10**9))
    try:
        at = datetime.fromisoformat(visit.text("at") if text == "at" else text)
    except ValueError:
        raise Refused("expected a time such as 2026-01-31T12:00") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


async def _ask_seek(visit: Visit) -> Question:
    name, since = _subscription(visit), _since(visit)
    count, exact = await count_up(_stored_since(visit, name, since))
    many = f"{'Up to' if exact else 'At least'} {count:,} stored events"
    return Question(
        title=f"Replay stored events to {name}?",
        text=f"{many} are delivered to it again, and to it only. What still waits for it is not delivered twice.",
        button="Replay",
        command=command(
            "subs",
            "seek",
            visit.desk.target,
            name,
            "--to",
            "start" if since == _START else f"{since:%Y-%m-%dT%H:%M:%S}",
        ),
        fields=(("sub", name),),
        form="seek",
        more={"from": visit.text("from") or "3600", "at": f"{since:%Y-%m-%dT%H:%M}" if since != _START else ""},
    )


async def _stored_since(visit: Visit, name: str, since: datetime) -> AsyncIterator[int]:
    """How many stored events that would be, page by page."""
    spec, after = visit.snapshot.subscriptions[name].spec, None
    while page := await visit.bus.events.list(limit=_PAGE, after=after):
        recent = [stored.envelope for stored in page if stored.envelope.time >= since]
        yield sum(1 for envelope in recent if spec.takes(envelope.name, envelope.topic))
        if len(recent) < len(page) or len(page) < _PAGE:
            return
        after = page[-1].cursor


async def _seek(visit: Visit) -> Task | str:
    name, since = _subscription(visit), _since(visit)

    async def work(task: Task) -> str:
        task.done = task.total = await visit.bus.subscriptions.seek(name, since)
        return f"{task.done:,} events are delivered again to {name}"

    return visit.desk.tasks.start(f"Replay stored events to {name}", visit.rights.who, 0, work)


# -- dead letters


def _said(count: int, *, exact: bool) -> str:
    return f"{'' if exact else 'at least '}{count:,} dead letter{'s' * (count != 1)}"


def _fields(chosen: Chosen) -> tuple[tuple[str, str], ...]:
    return (*chosen.filters.items(), *(("ids", str(id_)) for id_ in chosen.ids))


def _whose(chosen: Chosen) -> str:
    of = f" of {chosen.sub}" if chosen.sub is not None else ""
    return f"{of} in this group" if chosen.group is not None else of


async def _ask_replay(visit: Visit) -> Question:
    chosen = Chosen.by(visit)
    count, exact = await chosen.count(visit.desk)
    return Question(
        title=f"Replay {_said(count, exact=exact)}{_whose(chosen)}?",
        text="They are delivered again to the subscription that buried them, with all their attempts.",
        button="Replay",
        command=chosen.command(visit.desk.target, "replay"),
        fields=_fields(chosen),
        empty=count == 0,
    )


async def _ask_discard(visit: Visit) -> Question:
    chosen = Chosen.by(visit)
    count, exact = await chosen.count(visit.desk)
    return Question(
        title=f"Discard {_said(count, exact=exact)}{_whose(chosen)}?",
        text="They are deleted for good. Export them first if anybody may want them.",
        button="Discard",
        command=chosen.command(visit.desk.target, "discard"),
        danger=True,
        typed="" if len(chosen.ids) == 1 else "discard",  # a count may be another by the time it is done
        fields=_fields(chosen),
        empty=count == 0,
    )


async def _replay(visit: Visit) -> Task | str:
    chosen = Chosen.by(visit)
    count, _ = await chosen.count(visit.desk)

    async def work(task: Task) -> str:
        return f"{await chosen.do(visit.desk, 'replay', task):,} replayed"

    title = f"Replay dead letters{_whose(chosen)}"
    return visit.desk.tasks.start(title, visit.rights.who, count, work)


async def _discard(visit: Visit) -> Task | str:
    chosen = Chosen.by(visit)
    count, _ = await chosen.count(visit.desk)
    if len(chosen.ids) != 1 and visit.text("typed").casefold() != "discard":
        raise Refused("nothing was discarded: type the word discard to confirm")

    async def work(task: Task) -> str:
        return f"{await chosen.do(visit.desk, 'discard', task):,} discarded"

    title = f"Discard dead letters{_whose(chosen)}"
    return visit.desk.tasks.start(title, visit.rights.who, count, work)


async def _ask_amend(visit: Visit) -> Question:
    letter = await _letter(visit)
    shown = shown_of(letter.envelope, visit.bus.catalog, visit.desk.redact)
    text = None if shown.error is not None else as_text(shown.payload)
    if shown.hidden or text is None:
        why = "parts of it are hidden here" if shown.hidden else "it is no JSON"
        raise Refused(f"this payload cannot be edited: {why}")
    return Question(
        title="Edit and replay",
        text=f"A new event with this payload takes the place of the dead letter, for {letter.subscription} only; "
        f"it names the old one as its cause.",
        button="Replay edited",
        command=command("dead", "amend", visit.desk.target, str(letter.id), "--file", "payload.json", "--replay"),
        fields=(("sub", letter.subscription), ("ids", str(letter.id))),
        form="amend",
        more={"payload": text},
    )


async def _letter(visit: Visit) -> Any:
    chosen = Chosen.by(visit)
    letter = await visit.bus.dead.get(chosen.ids[0]) if chosen.ids else None
    if letter is None:
        raise NoSuchPage("there is no such dead letter: it may have been replayed or discarded")
    return letter


async def _amend(visit: Visit) -> Task | str:
    letter = await _letter(visit)
    shown = shown_of(letter.envelope, visit.bus.catalog, visit.desk.redact)
    if shown.hidden:
        raise Refused("this payload cannot be edited: parts of it are hidden here")
    try:
        payload = parsed(next(iter(visit.many("payload")), ""))
    except ValueError as error:
        raise Refused(f"that is no JSON: {error}") from error

    async def work(task: Task) -> str:
        amended = await visit.bus.dead.amend(letter.id, payload)
        task.done = await visit.bus.dead.replay(amended.subscription, [amended.id])
        visit.desk.groups.forget(letter.subscription)
        return f"replayed as {amended.envelope.id}"

    return visit.desk.tasks.start("Replay an edited dead letter", visit.rights.who, 1, work)


# -- retries


def _retries(count: int, *, exact: bool, waiting: Waiting) -> str:
    of = f" of {waiting.sub}" if waiting.sub is not None else ""
    return f"{'' if exact else 'at least '}{count:,} {'retry' if count == 1 else 'retries'}{of}"


async def _ask_hasten(visit: Visit) -> Question:
    waiting = Waiting.by(visit)
    count, exact = await waiting.count(visit.desk)
    return Question(
        title=f"Run {_retries(count, exact=exact, waiting=waiting)} now?",
        text="Their next attempt is made as soon as a worker is free, instead of when it is due. It counts as one.",
        button="Run now",
        command=waiting.command(visit.desk.target, "run-now"),
        fields=waiting.fields,
        empty=count == 0,
    )


async def _ask_abandon(visit: Visit) -> Question:
    waiting = Waiting.by(visit)
    count, exact = await waiting.count(visit.desk)
    return Question(
        title=f"Discard {_retries(count, exact=exact, waiting=waiting)}?",
        text="No further attempt is made, and no dead letter is kept: the subscription never handles these events. "
        "Other subscriptions do.",
        button="Discard",
        command=waiting.command(visit.desk.target, "discard"),
        danger=True,
        typed="" if len(waiting.picked) == 1 else "discard",
        fields=waiting.fields,
        empty=count == 0,
    )


async def _hasten(visit: Visit) -> Task | str:
    waiting = Waiting.by(visit)
    count, _ = await waiting.count(visit.desk)

    async def work(task: Task) -> str:
        return f"{await waiting.do(visit.desk, 'run', task):,} run now"

    return visit.desk.tasks.start("Run retries now", visit.rights.who, count, work)


async def _abandon(visit: Visit) -> Task | str:
    waiting = Waiting.by(visit)
    count, _ = await waiting.count(visit.desk)
    if len(waiting.picked) != 1 and visit.text("typed").casefold() != "discard":
        raise Refused("nothing was discarded: type the word discard to confirm")

    async def work(task: Task) -> str:
        return f"{await waiting.do(visit.desk, 'discard', task):,} discarded"

    return visit.desk.tasks.start("Discard retries", visit.rights.who, count, work)


ACTS: Mapping[str, Act] = MappingProxyType(
    {
        "pause": Act(_ask_pause, _pause),
        "resume": Act(_ask_resume, _resume),
        "seek": Act(_ask_seek, _seek),
        "replay": Act(_ask_replay, _replay),
        "discard": Act(_ask_discard, _discard),
        "amend": Act(_ask_amend, _amend),
        "quiet-worker": Act(asking("quiet"), telling("quiet")),
        "resume-worker": Act(asking("resume"), telling("resume")),
        "stop-worker": Act(asking("stop"), telling("stop")),
        "hasten": Act(_ask_hasten, _hasten),
        "abandon": Act(_ask_abandon, _abandon),
    }
)
