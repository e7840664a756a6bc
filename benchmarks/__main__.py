"""The command line of `make bench`.  Speed never makes it fail, unless `--check` asks for that."""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from .harness import Outcome, Row, Sizes, run_row, verdicts
from .report import Report, document, machine, summary, versions
from .rows import ROWS

FULL = Sizes()
QUICK = Sizes(rounds=2, divisor=10)

FAILED, USAGE, MISSED = 1, 2, 4

_WORK = Path("build/bench")
# A load average above which the figures say more about the neighbours.
_BUSY = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 when a line of postbus gave no figure, 4 with `--check` when an 'at least' is missed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if _chosen(row, options.only)]
    if not rows:
        parser.error(f"no scenario matches {', '.join(options.only)}; there are {', '.join(row.id for row in ROWS)}")
    if options.list:
        print("\n".join(f"{row.id:20} {row.title}" for row in rows))
        return 0
    if options.write and (options.quick or options.only) and not options.read:
        parser.error("--write takes a whole run: leave out --only and --quick")
    report = _read(options.read) if options.read else _run(rows, options)
    _say("\n".join(summary(report, rows)))
    if options.write:
        options.write.write_text(document(report, ROWS), encoding="utf-8")
    return _exit_code(report, rows, check=options.check)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("make bench", description="postbus against the raw limit and its peers.")
    add = parser.add_argument
    add("--only", action="append", default=[], metavar="PATTERN", help="only scenarios like this; repeatable")
    add("--quick", action="store_true", help="a tenth of the events, two rounds; figures not to be quoted")
    add("--rounds", type=int, metavar="N", help=f"rounds of each scenario (default {FULL.rounds})")
    add("--write", type=Path, metavar="FILE", help="write the page, such as docs/benchmarks.md")
    add("--json", type=Path, metavar="FILE", default=_WORK / "results.json", help="default %(default)s")
    add("--read", type=Path, metavar="FILE", help="show the results in this file; run nothing")
    add("--dir", type=Path, metavar="DIR", default=_WORK, help="on the disk to be measured (%(default)s)")
    add("--check", action="store_true", help=f"exit {MISSED} when an 'at least' is missed")
    add("--list", action="store_true", help="list the scenarios")
    return parser


def _chosen(row: Row, patterns: Sequence[str]) -> bool:
    return not patterns or any(_fits(row, pattern) for pattern in patterns)


def _fits(row: Row, pattern: str) -> bool:
    """A whole id means that row alone; a part of one, or wildcards, all that match."""
    if any(pattern == other.id for other in ROWS):
        return pattern == row.id
    return fnmatch.fnmatch(row.id, pattern) or pattern in row.id


def _run(rows: Sequence[Row], options: argparse.Namespace) -> Report:
    load = os.getloadavg()[0]
    if load > _BUSY:
        _say(f"warning: others use this machine (load {load:.1f}): latencies and SQLite figures will suffer")
    sizes = QUICK if options.quick else FULL
    if options.rounds:
        sizes = Sizes(rounds=options.rounds, divisor=sizes.divisor)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for number, row in enumerate(rows, 1):
        _say(f"[{number}/{len(rows)}] {row.title}")
        outcomes.append(run_row(row, sizes, options.dir, _say))
        report = Report(
            command="make bench", machine=machine(), versions=versions(), rounds=sizes.rounds, outcomes=outcomes
        )
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    return report


def _read(file: Path) -> Report:
    return msgspec.json.decode(file.read_bytes(), type=Report)


def _exit_code(report: Report, rows: Sequence[Row], *, check: bool) -> int:
    outcomes = {outcome.row: outcome for outcome in report.outcomes}
    ran = [(row, outcomes[row.id]) for row in rows if row.id in outcomes]
    if any(_failed(row, outcome) for row, outcome in ran):
        return FAILED
    held = [verdict for row, outcome in ran for verdict in verdicts(row, outcome)]
    missed = any(verdict.target.grade == "at least" and not verdict.reached for verdict in held)
    return MISSED if check and missed else 0


def _failed(row: Row, outcome: Outcome) -> bool:
    """A peer may be missing; a limit, a preparation or a line of ours may not."""
    peers = {contender.name for contender in row.contenders if contender.role == "peer"}
    return bool(outcome.failures.keys() - peers)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
