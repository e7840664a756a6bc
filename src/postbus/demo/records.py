"""What each worker process says it did, one line at a time, in a file of its own that nothing else writes.

The ledger at the end counts these lines and never asks the bus what was done.  A line is one `write` to a file that was
opened for appending, so a process that is killed leaves every line it wrote, whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from uuid import UUID

from postbus import DeliveryContext

__all__ = ["Entry", "Reader", "Recorder", "What"]

What: TypeAlias = Literal["start", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Attributes:
        at: seconds on the machine's monotonic clock, which all its processes share.
        pid: who wrote it.
    """

    at: float
    pid: int
    what: What
    subscription: str
    event: UUID
    attempt: int


class Recorder:
    """Writes this process's lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, int] = {}

    @contextmanager
    def on_record(self, context: DeliveryContext) -> Iterator[None]:
        """Note that a delivery starts, and how it ends: 'done' only when the body did not raise."""
        self._write("start", context)
        ended: What = "failed"
        try:
            yield
            ended = "done"
        finally:
            self._write(ended, context)

    def _write(self, what: What, context: DeliveryContext) -> None:
        line = f"{time.monotonic():.6f} {what} {context.subscription} {context.id} {context.attempt}\n"
        os.write(self._file(), line.encode())

    def _file(self) -> int:
        pid = os.getpid()
        if pid not in self._files:  # by pid, so that a forked child does not write into its parent's file
            path = self._folder / f"{pid}.log"
            self._files[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return self._files[pid]


@dataclass(slots=True)
class Reader:
    """Reads the lines of all processes, each once."""

    folder: Path
    torn: int = 0
    _read: dict[Path, int] = field(default_factory=dict)

    def new_entries(self) -> list[Entry]:
        """What was written since the last call; the entries of one process are in the order it wrote them."""
        entries = []
        for path in sorted(self.folder.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]  # A last line may be on its way.
            self._read[path] = self._read.get(path, 0) + len(whole)
            entries += [entry_of(line, int(path.stem)) for line in whole.decode().splitlines()]
        return entries


def entry_of(line: str, pid: int) -> Entry:
    """Read one line.

    Raises:
        ValueError: when it is not one.
    """
    at, what, subscription, event, attempt = line.split()
    if what not in get_args(What):
        raise ValueError(f"{line!r} is not a line of a worker's record: expected start, done or failed")
    return Entry(float(at), pid, what, subscription, UUID(event), int(attempt))  # type: ignore[arg-type]
