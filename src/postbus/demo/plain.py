"""The run as lines of text: one a second at most, for logs, pipes and terminals without rich."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Self, TextIO

from .sight import News, Sight

__all__ = ["Lines", "news_line", "status_line"]


def status_line(sight: Sight) -> str:
    """How everything stands, in one line."""
    lanes = sight.lanes
    behind = [f"{lane.name} {lane.unfinished:,}" for lane in lanes if lane.unfinished > 50]
    parts = [
        f"published {sight.published:>6,} of {sight.total:,}",
        f"done {sight.done:>6,}",
        f"waiting {sum(lane.waiting for lane in lanes):,}",
        f"running {sum(lane.running for lane in lanes):,}",
        f"retrying {sum(lane.retrying for lane in lanes):,}",
        f"dead {sum(lane.dead for lane in lanes):,}",
        *([f"behind: {', '.join(behind)}"] if behind else []),
    ]
    return f"{_clock(sight)}  {'  '.join(parts)}"


def news_line(news: News) -> str:
    """One sentence with its time."""
    return f"{news.clock:%a %d %b %H:%M}  > {news.text}"


def _clock(sight: Sight) -> str:
    return f"{sight.clock:%a %d %b %H:%M}"


@dataclass(slots=True)
class Lines:
    """Prints a line a second at most; news goes before figures, and none is left out."""

    out: TextIO
    every: float = 1.0
    _printed_at: float = float("-inf")
    _told: int = 0
    _queue: deque[News] = field(default_factory=deque)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write(*(news_line(news) for news in self._queue))
        self._queue.clear()

    def show(self, sight: Sight) -> None:
        """Print what there is to say, if it is time."""
        self._queue += sight.news[self._told :]
        self._told = len(sight.news)
        if sight.elapsed - self._printed_at < self.every:
            return
        self._printed_at = sight.elapsed
        self._write(news_line(self._queue.popleft()) if self._queue else status_line(sight))

    def _write(self, *lines: str) -> None:
        for line in lines:
            print(line, file=self.out, flush=True)
