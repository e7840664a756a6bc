"""What one contender is asked to do and what it answers.  Facts that cross from the harness to a child process."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import msgspec

__all__ = ["RATE", "Answer", "Measure", "Option", "Task"]

Option: TypeAlias = int | float | str

# One sample: metric name to figure.
Measure: TypeAlias = dict[str, float]

# The metric of most rows, in which more is better.
RATE = "events/s"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One sample of one contender.

    Attributes:
        run: the function, as `module:function`; it takes the task and returns a `Measure`.
        events: how many events it handles while the clock runs.
        here: an empty directory of this sample's own.
        shared: the row's directory, which its preparation filled; no sample may change what others read there.
        urls: of the row's servers.  `redis` and `postgres` are an empty database of this sample's own, `redis_shared`
            and `postgres_shared` the row's.
        options: what differs between lines that share a function.
    """

    run: str
    events: int
    here: str
    shared: str
    urls: dict[str, str] = {}
    options: dict[str, Option] = {}

    @property
    def place(self) -> Path:
        """The sample's own directory."""
        return Path(self.here)

    def number(self, option: str) -> int:
        """A whole-number option."""
        return int(self.options[option])

    def text(self, option: str) -> str:
        """A text option, with `{here}`, `{shared}` and the servers' URLs filled in."""
        return str(self.options[option]).format(here=self.here, shared=self.shared, **self.urls)

    def other(self, run: str) -> Task:
        """The same for another process that takes part in this sample."""
        return Task(
            run=run, events=self.events, here=self.here, shared=self.shared, urls=self.urls, options=self.options
        )


class Answer(msgspec.Struct, frozen=True):
    """What the child process says: a measure, or why there is none."""

    measure: Measure | None = None
    missing: str | None = None
    error: str | None = None
