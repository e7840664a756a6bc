"""`postbus doctor`: what may be wrong, and the next step."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import click

from ..doctor import examine
from ..failure import redacted
from ..logs import Logs
from .given import as_json, takes_app, without_app
from .output import Table, print_json, say

__all__ = ["doctor"]

_BAD = {"error": 2, "warning": 1}
CHECK_FAILED = 4


@click.command()
@takes_app()
@click.option("--strict", is_flag=True, help="Warnings fail the check, too.")
@as_json
def doctor(words: tuple[str, ...], *, app_dir: str, factory: bool, strict: bool, as_json: bool) -> int:
    """Check APP and its transport: exit 4 when something is wrong.

    Looks at the program's declarations, what the transport holds, its workers, and settings that weaken a promise.
    Changes nothing.
    """
    program, _ = without_app(words, app_dir, factory=factory)
    Logs(level="error").configure(redacted)
    found = asyncio.run(examine(program.load()))
    failed = any(_BAD.get(finding.level, 0) >= (1 if strict else 2) for finding in found)
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in found]})
        return CHECK_FAILED if failed else 0
    table = Table(["", "what", "found", "next step"], wide=100)
    for finding in found:
        alarm = [0] if finding.level in _BAD else []
        table.add(finding.level, finding.what, finding.text, finding.advice or None, alarm=alarm)
    table.show()
    counts = {level: sum(1 for finding in found if finding.level == level) for level in ("error", "warning", "note")}
    say(", ".join(f"{count} {level}{'s' * (count != 1)}" for level, count in counts.items()))
    return CHECK_FAILED if failed else 0
