"""The system: versions, settings without secrets, what `doctor` says, and who did what here."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from ... import __version__
from ...failure import redacted
from ..commands import command
from ..visit import Visit
from .page import Page

__all__ = ["SYSTEM"]

_ACTIONS = 50


async def _view(visit: Visit) -> dict[str, Any]:
    bus = visit.bus
    traits = asdict(bus.transport.traits)
    actions = await bus.journal.actions(limit=_ACTIONS) if visit.desk.past.enabled else []
    return {
        "versions": {
            "postbus": __version__,
            "Python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
        },
        "settings": {"bus": redacted(repr(bus)), **{f"worker {k}": v for k, v in _worker(visit).items()}},
        "traits": traits,
        "latency": visit.snapshot.latency,
        "actions": actions,
        "tasks": visit.desk.tasks.recent(),
        "journal": visit.desk.past.enabled,
        "findings": await visit.desk.findings(),
        "doctor_command": command("doctor", visit.desk.target),
    }


def _worker(visit: Visit) -> dict[str, Any]:
    found = asdict(visit.bus.worker_settings)
    return {name: value for name, value in found.items() if isinstance(value, int | float | str | None)}


SYSTEM = Page(path="/system", template="system.html", view=_view, section="system", title="System", jump="y")
