"""The first page: does everything move, and if not, what is in the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ...history import History
from ..commands import command
from ..past import rate, recent
from ..visit import Visit
from .page import Page

__all__ = ["OVERVIEW", "Notice", "notices"]

_QUARTER, _DAY = 900, 86_400
_OLD, _SILENT = 60.0, 15.0
_FEW = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that somebody should know, with the next step."""

    level: str
    text: str
    link: str
    command: str = ""


def notices(visit: Visit) -> Iterator[Notice]:
    """What is in the way of events, the worst first."""
    desk, snapshot = visit.desk, visit.snapshot
    found = [one for name in snapshot.stats for one in _of_subscription(visit, name)]
    found += [
        Notice(
            level="warn",
            text=f"worker {worker.host}:{worker.pid} has not said anything for a while",
            link=visit.url("/workers"),
        )
        for worker in snapshot.workers
        if worker.seen_at is not None and (snapshot.at - worker.seen_at).total_seconds() > _SILENT
    ]
    if snapshot.outbox is not None and (snapshot.outbox.trouble or (snapshot.outbox.oldest_age or 0.0) > _OLD):
        text = (
            f"{snapshot.outbox.pending:,} events wait in the outbox: {snapshot.outbox.trouble or 'nobody relays them'}"
        )
        found.append(Notice(level="bad", text=text, link=visit.url("/outbox"), command=command("relay", desk.target)))
    if snapshot.stats and not snapshot.workers:
        text = "no worker lives: nothing is handled"
        found.append(Notice(level="bad", text=text, link=visit.url("/workers"), command=command("worker", desk.target)))
    yield from sorted(found, key=lambda notice: ("bad", "warn", "off").index(notice.level))


def _of_subscription(visit: Visit, name: str) -> Iterator[Notice]:
    one, target = visit.snapshot.stats[name], visit.desk.target
    link = visit.url(f"/subscriptions/{name}")
    if one.paused:
        waiting = f", and {one.backlog:,} wait" if one.backlog else ""
        yield Notice(
            level="off", text=f"{name} is paused{waiting}", link=link, command=command("subs", "resume", target, name)
        )
    elif one.backlog and not one.workers and visit.snapshot.workers:
        text = f"{one.backlog:,} wait for {name}, and no worker runs it"
        yield Notice(level="bad", text=text, link=link, command=command("worker", target, "--subscription", name))
    elif one.oldest_age is not None and one.oldest_age > _OLD:
        minutes = one.oldest_age / 60
        yield Notice(level="warn", text=f"{name} is {minutes:,.0f} min behind, with {one.backlog:,} waiting", link=link)
    if one.dead:
        dead = visit.url("/dead", sub=name)
        letters = f"{one.dead:,} dead letter{'s' * (one.dead != 1)}"
        yield Notice(
            level="warn", text=f"{letters} of {name}", link=dead, command=command("dead", "list", target, "--sub", name)
        )
    if one.parked:
        keys = f"{one.parked:,} key{'s' * (one.parked != 1)} of {name}"
        text = f"{keys} wait for a dead letter, with {one.parked_events:,} events behind"
        yield Notice(level="bad", text=text, link=visit.url("/dead", sub=name))


async def _view(visit: Visit) -> dict[str, Any]:
    desk, stats = visit.desk, visit.snapshot.stats
    span = _DAY if visit.text("span") == "day" else _QUARTER
    history = await desk.past.history(span)
    busy = sorted(stats.values(), key=lambda s: (-(s.backlog + s.in_flight + s.retrying + s.dead), s.name))
    found = list(notices(visit))
    return {
        "notices": found[:_FEW],
        "more_notices": max(0, len(found) - _FEW),
        "bad": any(notice.level == "bad" for notice in found),
        "span": span,
        "history": history,
        "rates": None if history is None else _rates(history),
        "lines": busy[:_FEW],
        "more_lines": max(0, len(busy) - _FEW),
        "gauge": lambda what: desk.pulse.recent(None, what),
        "series": lambda what: _series(history, what),
    }


def _rates(history: History) -> dict[str, float | None]:
    """How fast it goes now."""
    points = history.total.points
    newest = next((point for point in reversed(points[-6:]) if point.delay.count), None)
    return {
        **{what: rate(points, history.step, what) for what in ("published", "handled", "failed")},
        "p50": None if newest is None else newest.delay.p50,
        "p95": None if newest is None else newest.delay.p95,
    }


def _series(history: History | None, what: str) -> list[float]:
    return [] if history is None else recent(history.total.points, history.step, what)


OVERVIEW = Page(path="/", template="overview.html", view=_view, section="overview", title="Overview", jump="o")
