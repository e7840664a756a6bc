"""What it costs to see into the bus: the journal, and hooks that nobody uses."""

from __future__ import annotations

from ..harness import Row, at_least, at_most, ours
from ..servers import Needs

__all__ = ["ROWS"]

_OFF, _ON = "postbus, journal=False", "postbus, with its journal"
_HOOKS = (
    "Without: wherever the code asks for middleware or observers, an empty tuple is put before it is compiled, so that "
    "Python drops the question; `benchmarks/ours/hookless.py`. Memory, where it weighs most."
)
_WITHOUT, _WITH = "postbus, hooks compiled out", "postbus, hooks there and unused"


def _journal(name: str, title: str, url: str, events: int, *needs: Needs) -> Row:
    return Row(
        id=f"journal-{name}",
        title=f"{title}, publish and handle in one process with the journal and without",
        needs=needs,
        contenders=(
            ours("road:there_and_back", events, _OFF, url=url, journal=0),
            ours("road:there_and_back", events, _ON, url=url, journal=1),
        ),
        targets=(at_least(0.9, _OFF, of=_ON),),
        rounds=9,
        note="A sample lasts several of the journal's seconds, and ends with what it has to write.",
    )


ROWS = (
    _journal("memory", "memory", "memory://", 400_000),
    _journal("sqlite", "SQLite", "sqlite:///{here}/bench.db", 150_000),
    _journal("redis", "Redis", "{redis}", 60_000, "redis"),
    _journal("postgres", "PostgreSQL", "{postgres}", 40_000, "postgres"),
    Row(
        id="hooks",
        title="tracing that is off: the bus with its hooks, and compiled without them",
        contenders=(
            ours("unhooked:publish_to_settled", 200_000, _WITHOUT, url="memory://"),
            ours("road:publish_to_settled", 200_000, _WITH, url="memory://"),
        ),
        targets=(at_least(0.97, _WITHOUT, of=_WITH),),
        rounds=15,
        note=_HOOKS,
    ),
    Row(
        id="hooks-counted",
        title="the same, by the instructions that the interpreter runs for one event",
        contenders=(
            ours("unhooked:bytecodes", 2_000, _WITHOUT, url="memory://"),
            ours("counted:bytecodes", 2_000, _WITH, url="memory://"),
        ),
        targets=(at_most(1.03, "bytecodes an event", _WITHOUT, of=_WITH),),
        rounds=3,
        note=f"{_HOOKS} Counted, it does not move with the machine.",
    ),
)
