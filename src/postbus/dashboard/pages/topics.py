"""Topics: which events travel on which log, how fast, and who takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...event import is_pattern, mark_of
from ..past import rate, recent
from ..visit import Visit
from .page import Page

__all__ = ["TOPICS"]

_SPAN = 900


@dataclass(slots=True, kw_only=True)
class _Row:
    name: str
    topic: str
    version: int | None
    class_name: str | None
    takers: list[str]
    last_at: Any = None
    rate: float | None = None
    points: list[float] | None = None


async def _view(visit: Visit) -> dict[str, Any]:
    history = await visit.desk.past.history(_SPAN)
    rows = _declared(visit)
    for stored in await visit.desk.newest():
        envelope = stored.envelope
        row = rows.setdefault(envelope.name, _row(visit, envelope.name, envelope.topic))
        row.topic = row.topic or envelope.topic
        row.last_at = row.last_at or envelope.time
    if history is not None:
        for name, series in history.names.items():
            row = rows.setdefault(name, _row(visit, name, ""))
            row.points = recent(series.points, history.step, "published")
            row.rate = rate(series.points, history.step, "published")
    topics: dict[str, list[_Row]] = {}
    for row in sorted(rows.values(), key=lambda row: (row.topic, row.name)):
        topics.setdefault(row.topic, []).append(row)
    return {"topics": topics, "count": len(rows)}


def _declared(visit: Visit) -> dict[str, _Row]:
    rows = {}
    for name, event_type in visit.bus.catalog.types().items():
        mark = mark_of(event_type)
        row = rows[name] = _row(visit, name, mark.topic)
        row.version, row.class_name = mark.version, f"{event_type.__module__}.{event_type.__qualname__}"
    for info in visit.snapshot.subscriptions.values():
        for want in info.spec.wants:
            if not is_pattern(want) and want not in rows:
                rows[want] = _row(visit, want, info.spec.topic or "")
    return rows


def _row(visit: Visit, name: str, topic: str) -> _Row:
    infos = visit.snapshot.subscriptions.values()
    takers = [info.name for info in infos if info.spec.takes(name, topic or info.spec.topic or "")]
    return _Row(name=name, topic=topic, version=None, class_name=None, takers=takers)


TOPICS = Page(path="/topics", template="topics.html", view=_view, section="topics", title="Topics", jump="t")
