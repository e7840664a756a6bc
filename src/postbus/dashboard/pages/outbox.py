"""The outbox: what was committed with the program's own transactions, and is not relayed yet."""

from __future__ import annotations

from typing import Any

from ...hold import OUTBOX as NAME
from ..commands import command
from ..visit import Visit
from .page import Page

__all__ = ["OUTBOX"]


async def _view(visit: Visit) -> dict[str, Any]:
    outbox, stats = visit.bus.outbox, visit.snapshot.outbox
    if outbox is None or stats is None:
        return {"stats": None}
    rows = await outbox.list(limit=visit.limit, after=visit.cursor)
    return {
        "stats": stats,
        "name": NAME,
        "rows": [stored.envelope for stored in rows],
        "older": visit.here(after=rows[-1].cursor) if len(rows) == visit.limit else None,
        "command": command("relay", visit.desk.target),
    }


OUTBOX = Page(path="/outbox", template="outbox.html", view=_view, section="outbox", title="Outbox", jump="b")
