"""What the journal knows, asked now and then for all who look."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from ..bus import Bus
from ..errors import PostbusError
from ..history import History, Point
from .kept import Kept

__all__ = ["Past", "begun", "rate", "rates", "recent"]

_FRESH = 1.5
_SHORTEST_CHART, _SHORTEST_SPARK, _LONGEST_SPARK = 30, 12, 60
# A window younger than this says little.
_YOUNG = 2.0


def begun(points: Sequence[Point], least: int) -> Sequence[Point]:
    """Without the windows before anything happened, but never fewer than `least`; and without one too young."""
    if points and time.time() - points[-1].at.timestamp() < _YOUNG:
        points = points[:-1]
    first = next((n for n, p in enumerate(points) if p.published or p.handled or p.failed), len(points))
    return points[max(0, min(first - 1, len(points) - least)) :]


def rates(points: Sequence[Point], step: float, what: str) -> list[float | None]:
    """So many a second in each window; the one under way is as long as it is old."""
    now = time.time()
    return [getattr(point, what) / min(step, max(_YOUNG, now - point.at.timestamp())) for point in points]


def rate(points: Sequence[Point], step: float, what: str) -> float:
    """So many a second now: by the last window that is over and the one under way."""
    last = points[-2:]
    seconds = sum(min(step, max(0.0, time.time() - point.at.timestamp())) for point in last)
    return float(sum(getattr(point, what) for point in last) / max(1.0, seconds))


def recent(points: Sequence[Point], step: float, what: str) -> list[float]:
    """The last windows, for a sparkline."""
    return [value or 0.0 for value in rates(begun(points[-_LONGEST_SPARK:], _SHORTEST_SPARK), step, what)]


class Past:
    """The series of a bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._series: dict[int, Kept[History]] = {}
        self._last: dict[int, History] = {}

    @property
    def enabled(self) -> bool:
        """Whether there is a journal to read."""
        return self._bus.journal.enabled

    async def history(self, span: int) -> History | None:
        """The last `span` seconds; None without a journal."""
        if not self.enabled:
            return None
        kept = self._series.get(span)
        if kept is None:
            kept = self._series[span] = Kept(partial(self._bus.journal.series, span), _FRESH)
        try:
            self._last[span] = await kept.get()
        except PostbusError:  # the pages say that the store does not answer, and show what was seen last
            return self._last.get(span)
        return self._last[span]

    def chart(self, history: History) -> dict[str, list[float | None]]:
        """Rates and times as columns, for a chart."""
        points = begun(history.total.points, _SHORTEST_CHART)
        return {
            "at": [point.at.timestamp() for point in points],
            **{what: rates(points, history.step, what) for what in ("published", "handled", "failed")},
            "delay_p50": [point.delay.p50 for point in points],
            "delay_p95": [point.delay.p95 for point in points],
        }
