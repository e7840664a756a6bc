"""What a memory transport remembers: records by kind and place, in this process only."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import islice

from ...clock import Clock
from ...recording import BOUNDS, Record, place_at

__all__ = ["Memoirs"]


class Memoirs:
    """The remembering part of the transport; see `Recording`."""

    def __init__(self, clock: Clock) -> None:
        self._wall = clock.time
        self._kinds: dict[str, dict[str, Record]] = {}
        self._pen = threading.Lock()

    async def record(self, records: Sequence[Record]) -> None:
        """See `Recording.record`."""
        with self._pen:
            for record in records:
                self._kinds.setdefault(record.kind, {})[record.place] = record
            for kind in {record.kind for record in records}:
                self._forget(kind)

    def _forget(self, kind: str) -> None:
        bound, kept = BOUNDS[kind], self._kinds[kind]
        oldest = place_at(self._wall() - bound.age)
        if len(kept) > bound.count * 1.1 or next(iter(kept)) < oldest:
            fresh = sorted(place for place in kept if place >= oldest)[-bound.count :]
            self._kinds[kind] = {place: kept[place] for place in fresh}

    async def records(
        self, kind: str, *, subject: str | None = None, since: str = "", limit: int = 100, after: str | None = None
    ) -> Sequence[Record]:
        """See `Recording.records`."""
        with self._pen:
            kept = list(self._kinds.get(kind, {}).values())
        asked = (
            record
            for record in sorted(kept, key=lambda record: record.place, reverse=True)
            if (subject is None or record.subject == subject)
            and record.place >= since
            and (after is None or record.place < after)
        )
        return list(islice(asked, limit))
