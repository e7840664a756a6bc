"""Who runs against whom, how often, and what counts: rounds of contenders, medians, ratios, verdicts.  Knows no bus.

The contenders of a row run one after the other, round after round, each sample in its own process: whatever else the
machine does hits all of them alike.  Every second round runs backwards, so that none always follows the same neighbour.
A ratio is taken within each round; what is quoted is the median of the rounds' ratios, with the least and the greatest.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeAlias

import msgspec

from .child import start
from .meter import Meter
from .servers import Needs, Running, ServerMissing, ended_with_us, running
from .task import RATE, Answer, Measure, Option, Task

__all__ = [
    "OURS",
    "Contender",
    "Figure",
    "Outcome",
    "Row",
    "Sizes",
    "Target",
    "Verdict",
    "aim",
    "at_least",
    "at_most",
    "figure",
    "limit",
    "ours",
    "peer",
    "run_row",
    "verdicts",
]

Role: TypeAlias = Literal["limit", "postbus", "peer"]
Grade: TypeAlias = Literal["at least", "aim"]
Progress: TypeAlias = Callable[[str], None]

# What is called postbus in a row with only one line of ours.
OURS = "postbus"


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of a row: a function, run with so many events."""

    name: str
    role: Role
    run: str
    events: int
    options: dict[str, Option] = field(default_factory=dict)


def limit(name: str, run: str, events: int, **options: Option) -> Contender:
    """A raw loop."""
    return Contender(name, "limit", f"benchmarks.limits.{run}", events, options)


def ours(run: str, events: int, name: str = OURS, **options: Option) -> Contender:
    """Our own."""
    return Contender(name, "postbus", f"benchmarks.ours.{run}", events, options)


def peer(name: str, run: str, events: int, **options: Option) -> Contender:
    """Another library."""
    return Contender(name, "peer", f"benchmarks.peers.{run}", events, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What one figure must reach ('at least') or should ('aim').

    Attributes:
        bound: the ratio, or the figure itself where `over` is None.
        over: the contender it is divided by.
        of: the contender it is about.
        lower: it must stay under the bound.
    """

    grade: Grade
    bound: float
    over: str | None = None
    metric: str = RATE
    of: str = OURS
    lower: bool = False

    def reached(self, value: float) -> bool:
        """Whether `value` is on the right side."""
        return value < self.bound if self.lower else value >= self.bound

    def __str__(self) -> str:
        what = f"{self.bound:,}" + (f" x {self.over}" if self.over else "")
        unit = "" if self.over else f" {self.metric}"
        return ("under " if self.lower else "") + what + unit


def at_least(bound: float, over: str | None = None, *, of: str = OURS, metric: str = RATE) -> Target:
    """A figure that must be reached."""
    return Target(grade="at least", bound=bound, over=over, of=of, metric=metric)


def aim(bound: float, over: str | None = None, *, of: str = OURS, metric: str = RATE, lower: bool = False) -> Target:
    """A figure to aim for."""
    return Target(grade="aim", bound=bound, over=over, of=of, metric=metric, lower=lower)


def at_most(bound: float, metric: str, over: str | None = None, *, of: str = OURS) -> Target:
    """A figure that must stay under `bound`."""
    return Target(grade="at least", bound=bound, metric=metric, over=over, of=of, lower=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario.

    Attributes:
        id: what `--only` is matched against.
        title: the scenario in words.
        needs: servers that its contenders share.
        prepare: run once before the first round, to fill the row's shared directory or databases.
        rounds: instead of the usual: one for what takes minutes and is no ratio of speeds, more for short samples.
        timeout: seconds after which a sample has failed.
        note: how to read it.
    """

    id: str
    title: str
    contenders: Sequence[Contender]
    targets: Sequence[Target] = ()
    needs: Sequence[Needs] = ()
    prepare: Sequence[Contender] = ()
    rounds: int | None = None
    timeout: float = 120.0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything: so many times the `events`."""

    rounds: int = 5
    scale: float = 1.0

    def rounds_of(self, row: Row) -> int:
        """How often to run a row; what is quick never takes more rounds than it says."""
        return row.rounds if row.rounds and (self.scale >= 1 or row.rounds < self.rounds) else self.rounds


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a row gave: for each contender its samples, one a round, or why it has none.

    Attributes:
        others: cores that other programs of the machine took meanwhile; None where the system does not say.
        run: the run it is of, in the report.
    """

    row: str
    samples: dict[str, list[Measure]]
    failures: dict[str, str]
    others: float | None = None
    run: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A median with the least and the greatest of its rounds."""

    median: float
    least: float
    greatest: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, and the figure that it was held against; None when there was nothing to compare."""

    target: Target
    figure: Figure | None

    @property
    def reached(self) -> bool | None:
        """Whether it was; None when there was nothing to compare."""
        return None if self.figure is None else self.target.reached(self.figure.median)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row runs, and how much of it."""

    row: Row
    sizes: Sizes
    shared: Path
    servers: Running


def run_row(row: Row, sizes: Sizes, under: Path, progress: Progress) -> Outcome:
    """Run a row's rounds in a directory of its own below `under`, which is removed afterwards."""
    under.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=under, prefix=f"{row.id}-") as shared:
        try:
            with running(row.needs) as servers:
                meter = Meter(servers.cpu)
                samples, failures = _rounds(_Place(row, sizes, Path(shared), servers), progress)
                return Outcome(row=row.id, samples=samples, failures=failures, others=meter.others())
        except ServerMissing as error:
            return Outcome(row=row.id, samples={}, failures={"server": str(error)})


def _rounds(place: _Place, progress: Progress) -> tuple[dict[str, list[Measure]], dict[str, str]]:
    row = place.row
    samples: dict[str, list[Measure]] = {contender.name: [] for contender in row.contenders}
    failures: dict[str, str] = {}
    for step in row.prepare:
        said = _sample(place, step, step.name)
        if said.measure is None:
            return samples, {step.name: _why(said)}
    rounds = place.sizes.rounds_of(row)
    for number in range(rounds):
        order = row.contenders if number % 2 == 0 else list(reversed(row.contenders))
        for contender in order:
            if contender.name in failures:
                continue
            said = _sample(place, contender, f"{number}-{row.contenders.index(contender)}")
            if said.measure is None:
                failures[contender.name] = _why(said)
            else:
                samples[contender.name].append(said.measure)
            progress(f"{row.id}  {number + 1}/{rounds}  {contender.name}: {_shown(said)}")
    return samples, failures


def verdicts(row: Row, outcome: Outcome) -> list[Verdict]:
    """Hold the outcome against the row's targets."""
    return [Verdict(target, figure(outcome, target.of, target.metric, target.over)) for target in row.targets]


def figure(outcome: Outcome, contender: str, metric: str, over: str | None = None) -> Figure | None:
    """One contender's metric, or its ratio to another's of the same round; None when either has no samples."""
    values = [sample[metric] for sample in outcome.samples.get(contender, []) if metric in sample]
    if over is not None:
        others = [sample[metric] for sample in outcome.samples.get(over, []) if metric in sample]
        values = [value / other for value, other in zip(values, others, strict=False)]
    return Figure(statistics.median(values), min(values), max(values)) if values else None


def _sample(place: _Place, contender: Contender, name: str) -> Answer:
    here = place.shared / name.replace(" ", "-")
    here.mkdir()
    task = Task(
        run=contender.run,
        events=max(1, round(contender.events * place.sizes.scale)),
        here=str(here),
        shared=str(place.shared),
        urls=place.servers.fresh(),
        options={"scale": place.sizes.scale, **contender.options},
    )
    said = ended_with_us(start(task), place.row.timeout)
    shutil.rmtree(here, ignore_errors=True)
    return said


def _why(said: Answer) -> str:
    if said.missing:
        return f"not installed: {said.missing}"
    sys.stderr.write(f"{said.error}\n")
    return (said.error or "no answer").strip().rpartition("\n")[2][:200]


def _shown(said: Answer) -> str:
    if said.measure is None:
        return "no figure"
    return ", ".join(f"{value:,.4g} {metric}" for metric, value in said.measure.items())
