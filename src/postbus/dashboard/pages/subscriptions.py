"""Subscriptions: how far behind, how fast, how well; and one of them with its declaration."""

from __future__ import annotations

from typing import Any

from ...event import valid_name
from ...history import History
from ..commands import command
from ..past import rate, recent
from ..visit import NoSuchPage, Visit
from .page import Page

__all__ = ["SUBSCRIPTION", "SUBSCRIPTIONS"]

_SPAN = 900


def _figures(visit: Visit, history: History | None, name: str) -> dict[str, Any]:
    """What the journal says of one subscription in the last quarter of an hour."""
    pulse = visit.desk.pulse
    found: dict[str, Any] = {
        "rate": None,
        "success": None,
        "p95": None,
        "points": pulse.recent(name, "backlog"),
        "points_of": "backlog",
    }
    series = None if history is None else history.subscriptions.get(name)
    if history is not None and series is not None:
        total = series.sum
        found |= {
            "rate": rate(series.points, history.step, "handled"),
            "success": (total.handled, total.handled + total.failed),
            "p95": total.run.p95,
            "points": recent(series.points, history.step, "handled"),
            "points_of": "handled per second",
        }
    return found


async def _list(visit: Visit) -> dict[str, Any]:
    history = await visit.desk.past.history(_SPAN)
    wanted = visit.text("q").casefold()
    names = [name for name in visit.snapshot.stats if wanted in name.casefold()]
    return {
        "q": visit.text("q"),
        "rows": [
            (visit.snapshot.stats[name], visit.snapshot.subscriptions.get(name), _figures(visit, history, name))
            for name in names
        ],
    }


async def _one(visit: Visit) -> dict[str, Any]:
    name = valid_name(visit.path("name"), "subscription name")
    stats, info = visit.snapshot.stats.get(name), visit.snapshot.subscriptions.get(name)
    if stats is None or info is None:
        raise NoSuchPage(f"no subscription is named {name}")
    history = await visit.desk.past.history(_SPAN)
    counted = await visit.desk.groups.look() if stats.dead else None
    pulse = visit.desk.pulse
    subscriber = next((one for one in visit.bus.subscribers if one.name == name), None)
    return {
        "one": stats,
        "info": info,
        "figures": _figures(visit, history, name),
        "subscriber": subscriber,
        "workers": [worker for worker in visit.snapshot.workers if name in worker.subscriptions],
        "groups": [] if counted is None else [group for group in counted.groups if group.subscription == name][:5],
        "gauges": [(what, pulse.recent(name, what)) for what in ("backlog", "in_flight", "retrying", "dead")],
        "status_command": command("status", visit.desk.target),
    }


SUBSCRIPTIONS = Page(
    path="/subscriptions", template="subscriptions.html", view=_list, section="subscriptions",
    title="Subscriptions", jump="s",
)  # fmt: skip
SUBSCRIPTION = Page(
    path="/subscriptions/{name}", template="subscription.html", view=_one, section="subscriptions", title="Subscription"
)
