"""What failed and will be tried again: when, which try, and why the last one failed."""

from __future__ import annotations

from typing import Any

from ...retrying import Hastening
from ..visit import Visit
from ..waiting import Waiting
from .page import Page

__all__ = ["RETRIES"]


async def _view(visit: Visit) -> dict[str, Any]:
    stats, chosen = visit.snapshot.stats, Waiting.by(visit)
    shows = isinstance(visit.bus.transport, Hastening)
    policies = {subscriber.name: subscriber.retry for subscriber in visit.bus.subscribers}
    rows = await chosen.page(visit.desk, visit.limit) if shows else []
    return {
        "sub": chosen.sub,
        "chosen": chosen,
        "filtered": bool(chosen.name or chosen.key or chosen.error),
        "waiting": sorted((one for one in stats.values() if one.retrying), key=lambda one: -one.retrying),
        "total": stats.retrying,
        "rows": [(row, policies[row.subscription].attempts if row.subscription in policies else None) for row in rows],
        "more": len(rows) == visit.limit,
        "command": chosen.command(visit.desk.target, "list"),
    }


RETRIES = Page(path="/retries", template="retries.html", view=_view, section="retries", title="Retries", jump="r")
