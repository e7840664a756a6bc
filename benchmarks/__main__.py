"""The command line of `make bench`.  Speed never makes it fail, unless `--check` asks for that."""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .harness import Outcome, Row, Sizes, run_row, verdicts
from .report import Report, document, run_here, summary
from .rows import ROWS, SECTIONS

FULL = Sizes()
QUICK = Sizes(rounds=2, scale=0.1)

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
    if options.write and options.quick:
        parser.error("--write takes figures that can be quoted: leave out --quick")
    report = _read(options.read) if options.read else _run(rows, options)
    _say("\n".join(summary(report, rows)))
    if options.write:
        _write(report, options.write)
    return _exit_code(report, rows, check=options.check)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("make bench", description="postbus against the raw limit and its peers.")
    add = parser.add_argument
    add("--only", action="append", default=[], metavar="PATTERN", help="only scenarios like this; repeatable")
    add("--quick", action="store_true", help="a tenth of the events, two rounds; figures not to be quoted")
    add("--scale", type=float, default=1.0, metavar="X", help="so many times the events")
    add("--rounds", type=int, metavar="N", help=f"rounds of each scenario (default {FULL.rounds})")
    add("--write", type=Path, metavar="FILE", help="renew what was measured in the page docs/benchmarks.md")
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
    sizes = Sizes(rounds=options.rounds or sizes.rounds, scale=sizes.scale * options.scale)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    began = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    runs, outcomes = {began: run_here()}, []
    for number, row in enumerate(rows, 1):
        _say(f"[{number}/{len(rows)}] {row.title}")
        outcome = run_row(row, sizes, options.dir, _say)
        if outcome.others is not None:
            _say(f"{row.id}  others used {outcome.others:.2f} cores")
        outcomes.append(msgspec.structs.replace(outcome, run=began))
        report = Report(runs=runs, outcomes=outcomes)
        _keep(report, options.json)
    return report


def _read(file: Path) -> Report:
    return msgspec.json.decode(file.read_bytes(), type=Report)


def _keep(report: Report, file: Path) -> None:
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))


def _write(report: Report, page: Path) -> None:
    """Put the outcomes in place of those of the same rows, in the page and in the figures kept beside it."""
    kept = page.with_suffix(".json")
    known = [row.id for row in ROWS]
    whole = _read(kept).renewed_by(report) if kept.exists() else report
    outcomes = sorted((o for o in whole.outcomes if o.row in known), key=lambda outcome: known.index(outcome.row))
    whole = Report(runs={o.run: whole.runs[o.run] for o in outcomes}, outcomes=outcomes)
    _keep(whole, kept)
    page.write_text(document(whole, SECTIONS), encoding="utf-8")


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
