"""The worker processes that live, as they say of themselves."""

from __future__ import annotations

from typing import Any

from ..commands import command
from ..visit import Visit
from .page import Page

__all__ = ["WORKERS"]

_SILENT = 15.0


async def _view(visit: Visit) -> dict[str, Any]:
    snapshot = visit.snapshot
    workers = sorted(snapshot.workers, key=lambda worker: (worker.host, worker.pid, worker.owner))
    run = {name for worker in workers for name in worker.subscriptions}
    return {
        "workers": [
            (worker, worker.seen_at is not None and (snapshot.at - worker.seen_at).total_seconds() > _SILENT)
            for worker in workers
        ],
        "busy": sum(worker.busy for worker in workers),
        "capacity": sum(worker.concurrency for worker in workers),
        "versions": sorted({worker.version for worker in workers}),
        "orphans": [one for name, one in snapshot.stats.items() if name not in run],
        "command": command("worker", visit.desk.target),
    }


WORKERS = Page(path="/workers", template="workers.html", view=_view, section="workers", title="Workers", jump="w")
