"""Outcomes as tables, for the terminal and for docs/benchmarks.md.  No clock: the same outcomes give the same text."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from .harness import OURS, Contender, Figure, Outcome, Row, Verdict, figure, verdicts

__all__ = ["Report", "document", "machine", "summary", "versions"]

_PEERS = (
    "blinker", "bubus", "Django", "huey", "litequeue", "persist-queue", "psygnal", "pyee", "pyventus",
)  # fmt: skip

_WORDS = {
    ("at least", True): "reached",
    ("at least", False): "**not reached**",
    ("aim", True): "reached",
    ("aim", False): "not yet",
}

_HEAD = """# Benchmarks

postbus against the raw limit and against other libraries.
Written by `{command}`; do not edit.

*How to read it.*
The contenders of a scenario ran one after the other, {rounds} rounds over, each sample in a process of its own.
So the machine's noise hit all alike.
A ratio is taken within a round; the table shows the median of the rounds' ratios, and the least and the greatest.
A *raw limit* is a hand-written loop: the same encode, the same statements without checks, the same no-op subscriber.
It has no retries, leases, fencing or middleware, and is a ceiling, not a goal.
Absolute figures move with the machine; ratios much less.

Machine: {machine}.

Versions: {versions}.
"""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run, as it is kept in JSON."""

    command: str
    machine: str
    versions: dict[str, str]
    rounds: int
    outcomes: list[Outcome]


def machine() -> str:
    """What the run was measured on, in a line."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    system = f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}"
    return f"{_processor()}, {cores} cores, {system}"


def versions() -> dict[str, str]:
    """Of the interpreter, SQLite, postbus and the peers that are installed."""
    found = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for name in ("postbus", "msgspec", *_PEERS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def document(report: Report, rows: Sequence[Row]) -> str:
    """The page."""
    outcomes = {outcome.row: outcome for outcome in report.outcomes}
    ran = [row for row in rows if row.id in outcomes]
    head = _HEAD.format(
        command=report.command,
        rounds=report.rounds,
        machine=report.machine,
        versions=", ".join(f"{name} {version}" for name, version in report.versions.items()),
    )
    details = [_details(row, outcomes[row.id]) for row in ran]
    return "\n".join([head, "## Targets\n", *summary(report, rows), "", "## Figures", *details])


def summary(report: Report, rows: Sequence[Row]) -> list[str]:
    """One line for each target, and whether it was reached."""
    outcomes = {outcome.row: outcome for outcome in report.outcomes}
    lines = (
        (row.title, verdict.target.grade, str(verdict.target), *_measured(verdict))
        for row in rows
        if row.id in outcomes
        for verdict in verdicts(row, outcomes[row.id])
    )
    return _table(("scenario", "grade", "target", "measured", "min..max", ""), lines, "lllrrl")


def _measured(verdict: Verdict) -> tuple[str, str, str]:
    shown, ratio = verdict.figure, verdict.target.over is not None
    if shown is None:
        return "-", "-", "not measured"
    median = f"{_ratio(shown.median)} x" if ratio else _number(shown.median)
    return median, _range(shown, ratio=ratio), _WORDS[verdict.target.grade, verdict.target.reached(shown.median)]


def _details(row: Row, outcome: Outcome) -> str:
    """One line for each contender and metric."""
    base = next((contender.name for contender in row.contenders if contender.role == "limit"), None)
    head = ["contender", "role", "metric", "median", "min..max", *([f"of {base}", "postbus to it"] if base else [])]
    lines = [line[: len(head)] for contender in row.contenders for line in _lines(contender, outcome, base)]
    contenders = {contender.name for contender in row.contenders}
    unprepared = [f"{name}: {why}" for name, why in outcome.failures.items() if name not in contenders]
    after = [row.note, *unprepared] if row.note else unprepared
    return "\n".join(
        ["", f"### {row.title}", "", f"`--only {row.id}`", "", *_table(head, lines, "lllrrrr"[: len(head)]), "", *after]
    )


def _lines(contender: Contender, outcome: Outcome, base: str | None) -> Iterable[tuple[str, ...]]:
    name = contender.name
    if name in outcome.failures:
        yield name, contender.role, outcome.failures[name], "-", "-", "-", "-"
        return
    for metric in dict.fromkeys(metric for sample in outcome.samples[name] for metric in sample):
        plain = figure(outcome, name, metric)
        if plain is not None:
            to_base = figure(outcome, name, metric, base) if base not in {None, name} else None
            to_ours = figure(outcome, OURS, metric, name) if contender.role != "postbus" else None
            spread = _range(plain, ratio=False)
            yield name, contender.role, metric, _number(plain.median), spread, _relative(to_base), _relative(to_ours)


def _relative(shown: Figure | None) -> str:
    return f"{_ratio(shown.median)} ({_range(shown, ratio=True)})" if shown else ""


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], sides: str) -> list[str]:
    rule = "|".join("---:" if side == "r" else "---" for side in sides)
    return [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(line)} |" for line in lines)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return (
        f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 1
        else f"{value:.3f}"
        if value >= 0.01
        else f"{value:.2g}"
    )


def _range(shown: Figure, *, ratio: bool) -> str:
    text = _ratio if ratio else _number
    return f"{text(shown.least)}..{text(shown.greatest)}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
