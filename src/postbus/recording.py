"""What a transport keeps of the past: records of a few kinds, newest first, bounded by number and age.

A record is text and bytes to the transport; `journal` says what stands in them.  None of it is part of the road: a
transport without it carries events just as well, and what cannot be kept is let go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import msgspec

__all__ = ["BOUNDS", "Bound", "Record", "Recording", "moment_of", "place_at"]


@dataclass(frozen=True, slots=True)
class Bound:
    """How many records of one kind are kept (a tenth more for a while), and for how many seconds."""

    count: int
    age: float


_HOUR, _DAY = 3600.0, 86400.0

BOUNDS: Mapping[str, Bound] = MappingProxyType(
    {
        "tens": Bound(20_000, 1800.0),  # figures of 10 seconds
        "minutes": Bound(20_000, 7 * _HOUR),
        "tens of minutes": Bound(20_000, 8 * _DAY),
        "attempt": Bound(10_000, 7 * _DAY),  # those that failed, and those after them
        "success": Bound(10_000, _DAY),  # at the first try, a sample
        "action": Bound(10_000, 90 * _DAY),  # what people did
        "wish": Bound(1_000, _DAY),  # what was asked of workers
    }
)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One thing to remember.

    Attributes:
        kind: one of `BOUNDS`.
        place: where it stands among its kind: made by `place_at`, so that places sort by time.
        subject: what it can be found by, or empty.
        body: what it says.
    """

    kind: str
    place: str
    subject: str
    body: bytes


@runtime_checkable
class Recording(Protocol):
    """A transport that remembers.  Both calls raise as those of `Transport` do."""

    async def record(self, records: Sequence[Record]) -> None:
        """Keep these: one whose kind and place are there already is replaced.  What is beyond `BOUNDS` is let go."""
        ...

    async def records(
        self, kind: str, *, subject: str | None = None, since: str = "", limit: int = 100, after: str | None = None
    ) -> Sequence[Record]:
        """Records of one kind, newest first: of this subject if given, from `since` on, behind the place `after`."""
        ...


def place_at(seconds: float, rest: str = "") -> str:
    """A place at this time; `rest` tells those of the same time apart."""
    return f"{max(0, round(seconds * 1e6)):016d}{rest}"


def moment_of(place: str) -> float:
    """When a place is, in seconds since 1970."""
    return int(place[:16]) / 1e6
