"""What really happened, written by the processes it happened to, and whether it keeps the delivery contract.

Each process appends lines to one file with single `O_APPEND` writes: a killed process leaves whole lines or none.
The check is linear in their number: https://pubs.opengroup.org/onlinepubs/9799919799/functions/write.html
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

__all__ = ["Entry", "Kind", "Ledger", "Verdict", "judge"]

Kind = Literal["INTENT", "ACK", "UNKNOWN", "FAILED", "START", "END", "ERROR"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Attributes:
        kind: INTENT, ACK, UNKNOWN, FAILED by publishers; START, END, ERROR by subscribers.
        id: the event's.
        at: seconds on the monotonic clock, comparable between processes of one machine.
        pid: who wrote it.
        subscription, attempt, fence, key, number: of the delivery, where there is one.
    """

    kind: Kind
    id: str
    at: float
    pid: int
    subscription: str = ""
    attempt: int = 0
    fence: int = 0
    key: str = ""
    number: int = 0


# Ends each line: where a process is killed amidst its write, only the first part of it may be there.
_WHOLE = "\t."


class Ledger:
    """An append-only file, shared by any number of processes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(
        self,
        kind: Kind,
        id: object,  # noqa: A002 - the word of the contract
        *,
        subscription: str = "",
        attempt: int = 0,
        fence: int = 0,
        key: str = "",
        number: int = 0,
    ) -> None:
        """Append one line in one write."""
        at = f"{time.monotonic():.6f}"
        line = "\t".join(map(str, (kind, id, at, os.getpid(), subscription, attempt, fence, key, number)))
        os.write(self._file, f"\n{line}{_WHOLE}".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def entries(self) -> list[Entry]:
        """All whole lines so far."""
        lines = self.path.read_text().split("\n")
        return [_entry(line.removesuffix(_WHOLE)) for line in lines if line.endswith(_WHOLE)]

    def count(self, kind: Kind) -> int:
        """How many lines of this kind there are."""
        return self.path.read_text().count(f"{kind}\t")


def _entry(line: str) -> Entry:
    kind, event_id, at, pid, subscription, attempt, fence, key, number = line.split("\t")
    return Entry(
        kind,  # type: ignore[arg-type]  # written by `note`, which checks it
        event_id, float(at), int(pid), subscription, int(attempt), int(fence), key, int(number),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a ledger shows.

    Attributes:
        accepted: events whose publish returned.
        recovered: events of unknown fate that arrived after all.
        lost: (subscription, event) accepted, and neither handled nor dead.
        unexpected: events that ran although nobody meant to publish them, or their publish had failed for sure.
        duplicates: (subscription, event) to the number of runs beyond the first, retries after an error not counted.
        overlaps: runs of one delivery that overlapped in two processes of which none was frozen.
        disorder: ordered deliveries whose runs to success came in another order than they were published.
        starts: (subscription, event) to the number of runs.
        attempts: (subscription, event) to the highest attempt seen.
    """

    accepted: int = 0
    recovered: int = 0
    lost: frozenset[tuple[str, str]] = frozenset()
    unexpected: frozenset[str] = frozenset()
    duplicates: Mapping[tuple[str, str], int] = field(default_factory=dict)
    overlaps: tuple[tuple[Entry, Entry], ...] = ()
    disorder: tuple[tuple[Entry, Entry], ...] = ()
    starts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    attempts: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def extra_starts(self) -> int:
        """Runs beyond the first that no error explains, over all deliveries."""
        return sum(self.duplicates.values())

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, recovered {self.recovered}, lost {len(self.lost)}, "
            f"unexpected {len(self.unexpected)}, extra starts {self.extra_starts}, overlaps {len(self.overlaps)}, "
            f"out of order {len(self.disorder)}"
        )


def judge(
    entries: Iterable[Entry],
    subscriptions: Collection[str],
    *,
    dead: Iterable[tuple[str, str]] = (),
    frozen: Collection[int] = (),
    ordered: Collection[str] = (),
) -> Verdict:
    """Hold a ledger against the contract.

    Args:
        entries: the ledger's lines.
        subscriptions: every one that was to receive every event.
        dead: (subscription, event id) of the dead letters.
        frozen: pids that were stopped for longer than their lease: they may overlap their successors.
        ordered: subscriptions whose deliveries carry a key and a growing number.
    """
    published: dict[str, set[str]] = defaultdict(set)
    runs: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.kind in ("START", "END", "ERROR"):
            runs[entry.subscription, entry.id].append(entry)
        else:
            published[entry.kind].add(entry.id)
    handled = {delivery for delivery, lines in runs.items() if any(line.kind == "END" for line in lines)}
    wanted = {(subscription, event) for event in published["ACK"] for subscription in subscriptions}
    seen = {event for _, event in runs}
    surely_failed = published["FAILED"] - published["ACK"] - published["UNKNOWN"]
    return Verdict(
        accepted=len(published["ACK"]),
        recovered=len(published["UNKNOWN"] & seen),
        lost=frozenset(wanted - handled - set(dead)),
        unexpected=frozenset((seen - published["INTENT"]) | (seen & surely_failed)),
        duplicates={delivery: extra for delivery, lines in runs.items() if (extra := _extra(lines)) > 0},
        overlaps=tuple(pair for lines in runs.values() for pair in _overlaps(lines, frozen)),
        disorder=tuple(pair for subscription in ordered for pair in _disorder(runs, subscription)),
        starts={delivery: sum(line.kind == "START" for line in lines) for delivery, lines in runs.items()},
        attempts={delivery: max(line.attempt for line in lines) for delivery, lines in runs.items()},
    )


def _extra(lines: list[Entry]) -> int:
    kinds = Counter(line.kind for line in lines)
    return kinds["START"] - kinds["ERROR"] - 1


def _overlaps(lines: list[Entry], frozen: Collection[int]) -> list[tuple[Entry, Entry]]:
    """A run that never ended was cut off by a kill: it overlaps nothing that began after its worker's death."""
    spans: list[tuple[Entry, Entry]] = []
    for begin in (line for line in lines if line.kind == "START"):
        end = next(
            (
                e
                for e in lines
                if e.kind != "START" and (e.pid, e.fence) == (begin.pid, begin.fence) and e.at >= begin.at
            ),
            None,
        )
        if end is not None and begin.pid not in frozen:
            spans.append((begin, end))
    spans.sort(key=lambda span: span[0].at)
    return [(one[0], two[0]) for one, two in pairwise(spans) if two[0].at < one[1].at and one[0].pid != two[0].pid]


def _disorder(runs: Mapping[tuple[str, str], list[Entry]], subscription: str) -> list[tuple[Entry, Entry]]:
    firsts: dict[str, list[Entry]] = defaultdict(list)
    for (name, _), lines in runs.items():
        if name == subscription and (ends := [line for line in lines if line.kind == "END"]) and ends[0].key:
            firsts[ends[0].key].append(min(ends, key=lambda line: line.at))
    wrong: list[tuple[Entry, Entry]] = []
    for lines in firsts.values():
        lines.sort(key=lambda line: line.at)
        wrong += [(a, b) for a, b in pairwise(lines) if b.number < a.number]
    return wrong
