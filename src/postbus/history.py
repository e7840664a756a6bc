"""Figures over time: what processes write down of their tallies, and what charts are drawn from.  Does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from .errors import ConfigError
from .tally import EDGES, Histogram, RunTally, Tally

__all__ = [
    "TIERS",
    "History",
    "Meter",
    "Point",
    "Runs",
    "Series",
    "Spread",
    "Times",
    "Window",
    "history_of",
    "tier_for",
]

# Kind of record to the seconds of one window: the finest that reaches back far enough is used.
TIERS: Mapping[str, tuple[float, float]] = {
    "tens": (10.0, 1200.0),
    "minutes": (60.0, 6 * 3600.0),
    "tens of minutes": (600.0, 7 * 86400.0),
}
# Names and subscriptions in one window, so that names without end cannot fill a store; the rest counts together.
_MOST = 300
_OTHERS = "(others)"


class Times(msgspec.Struct, array_like=True):
    """A histogram: the counts of buckets that are not empty, by place, and the sum of all seconds."""

    counts: dict[int, int] = {}
    total: float = 0.0

    def add(self, other: Times) -> None:
        """Take another one in."""
        for place, count in other.counts.items():
            self.counts[place] = self.counts.get(place, 0) + count
        self.total += other.total


class Runs(msgspec.Struct, array_like=True):
    """What became of one subscription's deliveries in one window; fields as of `RunTally`."""

    acked: int = 0
    retried: int = 0
    snoozed: int = 0
    buried: int = 0
    released: int = 0
    failed: int = 0
    lost: int = 0
    run: Times = msgspec.field(default_factory=Times)
    delay: Times = msgspec.field(default_factory=Times)

    def add(self, other: Runs) -> None:
        """Take another one in."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.run.add(other.run)
        self.delay.add(other.delay)


_COUNTS = ("acked", "retried", "snoozed", "buried", "released", "failed", "lost")


class Window(msgspec.Struct, array_like=True):
    """What one process, or all together, did in one window: published by name, run by subscription."""

    names: dict[str, int] = {}
    runs: dict[str, Runs] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing happened."""
        return not self.names and not self.runs

    def add(self, other: Window) -> None:
        """Take another one in."""
        for name, count in other.names.items():
            known = name if name in self.names or len(self.names) < _MOST else _OTHERS
            self.names[known] = self.names.get(known, 0) + count
        for name, runs in other.runs.items():
            known = name if name in self.runs or len(self.runs) < _MOST else _OTHERS
            self.runs.setdefault(known, Runs()).add(runs)


class Meter:
    """Reads a tally: what has been added since it was read last."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._published: dict[tuple[str, str], int] = {}
        self._runs: dict[tuple[str, str], Runs] = {}

    def read(self) -> Window:
        """What has happened since the last reading."""
        window = Window()
        for key, tally in list(self._tally.published.items()):
            now = tally.stored
            if count := now - self._published.get(key, 0):
                self._published[key] = now
                window.names[key[0]] = window.names.get(key[0], 0) + count
        for key, runs in list(self._tally.runs.items()):
            current = _copied(runs)
            past = self._runs.get(key)
            if past is None or current != past:
                self._runs[key] = current
                window.runs.setdefault(key[0], Runs()).add(_difference(current, past or Runs()))
        return window


def _copied(runs: RunTally) -> Runs:
    counts = {name: getattr(runs, name) for name in _COUNTS}
    return Runs(**counts, run=_times(runs.run), delay=_times(runs.delay))


def _times(histogram: Histogram) -> Times:
    return Times({place: count for place, count in enumerate(histogram.counts) if count}, histogram.total)


def _difference(now: Runs, past: Runs) -> Runs:
    counts = {name: getattr(now, name) - getattr(past, name) for name in _COUNTS}
    return Runs(**counts, run=_since(now.run, past.run), delay=_since(now.delay, past.delay))


def _since(now: Times, past: Times) -> Times:
    counts = {place: grown for place, n in now.counts.items() if (grown := n - past.counts.get(place, 0))}
    return Times(counts, now.total - past.total)


# -- for people


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, over one or more windows.

    Attributes:
        count: how often.
        total: seconds, all together.
        counts: how often by bucket of `postbus.tally.EDGES`.
    """

    count: int = 0
    total: float = 0.0
    counts: Mapping[int, int] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Seconds; None when it never happened."""
        return self.total / self.count if self.count else None

    @property
    def p50(self) -> float | None:
        """Half took no longer, in seconds; None when it never happened."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float | None:
        """Nineteen of twenty took no longer, in seconds; None when it never happened."""
        return self.quantile(0.95)

    def quantile(self, share: float) -> float | None:
        """Seconds that this share of all did not exceed, estimated inside its bucket; None when it never happened."""
        wanted, seen = share * self.count, 0
        for place, count in sorted(self.counts.items()):
            if seen + count >= wanted:
                low = EDGES[place - 1] if place else 0.0
                high = EDGES[place] if place < len(EDGES) else low
                return low + (high - low) * (wanted - seen) / count
            seen += count
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One window, or several together.

    Attributes:
        at: when it began; aware, UTC.
        published: events accepted.
        handled: deliveries that were done.
        failed: attempts that failed: those `retried`, and those buried with an error.
        retried, snoozed, buried, released: deliveries settled so.
        lost: settles that were refused, because the lease had ended.
        run: how long subscribers ran.
        delay: from the publish to the start of the first attempt; a publish with a delay has it in there.
    """

    at: datetime
    published: int = 0
    handled: int = 0
    failed: int = 0
    retried: int = 0
    snoozed: int = 0
    buried: int = 0
    released: int = 0
    lost: int = 0
    run: Spread = Spread()
    delay: Spread = Spread()


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: a point for each window, oldest first, those where nothing happened included."""

    points: tuple[Point, ...]
    sum: Point


@dataclass(frozen=True, slots=True)
class History:
    """What happened over some time, in all processes.

    Attributes:
        start: when the first window begins; aware, UTC.
        step: seconds of one window; the last one is still under way.
        total: everything together.
        subscriptions: by the subscription's name.
        names: what was published, by the event's wire name.
    """

    start: datetime
    step: float
    total: Series
    subscriptions: Mapping[str, Series]
    names: Mapping[str, Series]


def tier_for(span: float) -> tuple[str, float]:
    """The kind of record whose windows reach back so many seconds, and the seconds of one.

    Raises:
        ConfigError: when none does.
    """
    for kind, (step, reach) in TIERS.items():
        if 0 < span <= reach:
            return kind, step
    raise ConfigError(f"span={span:g}: figures are kept for {reach:g} s, so expected more than 0 and at most that")


def history_of(windows: Iterable[tuple[float, Window]], *, first: float, step: float, count: int) -> History:
    """Put windows of many processes together, by the time they began."""
    merged = [Window() for _ in range(count)]
    for began, window in windows:
        place = round((began - first) / step)
        if 0 <= place < count:
            merged[place].add(window)
    times = [datetime.fromtimestamp(first, UTC) + timedelta(seconds=step * n) for n in range(count)]
    whole = Window()
    for window in merged:
        whole.add(window)

    def line(points: Sequence[Point], everything: Point) -> Series:
        return Series(tuple(points), everything)

    def runs_of(name: str) -> Series:
        points = [
            _point(at, 0, [window.runs[name]] if name in window.runs else ())
            for at, window in zip(times, merged, strict=True)
        ]
        return line(points, _point(times[0], 0, [whole.runs[name]]))

    def published(name: str) -> Series:
        points = [_point(at, window.names.get(name, 0), ()) for at, window in zip(times, merged, strict=True)]
        return line(points, _point(times[0], whole.names[name], ()))

    every = [_point(at, sum(w.names.values()), w.runs.values()) for at, w in zip(times, merged, strict=True)]
    return History(
        start=times[0],
        step=step,
        total=line(every, _point(times[0], sum(whole.names.values()), whole.runs.values())),
        subscriptions={name: runs_of(name) for name in sorted(whole.runs)},
        names={name: published(name) for name in sorted(whole.names)},
    )


def _point(at: datetime, published: int, runs: Iterable[Runs]) -> Point:
    together = Runs()
    for one in runs:
        together.add(one)
    return Point(
        at=at,
        published=published,
        handled=together.acked,
        failed=together.failed,
        retried=together.retried,
        snoozed=together.snoozed,
        buried=together.buried,
        released=together.released,
        lost=together.lost,
        run=_spread(together.run),
        delay=_spread(together.delay),
    )


def _spread(times: Times) -> Spread:
    return Spread(sum(times.counts.values()), times.total, times.counts)
