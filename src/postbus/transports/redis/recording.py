"""What Redis remembers: for each kind a sorted set of places, a hash of bodies, and places by their subject."""

from __future__ import annotations

from collections.abc import Sequence

from ...clock import Clock
from ...recording import BOUNDS, Record, place_at
from .line import Line, said
from .registry import Keys
from .scripts import RECORD

__all__ = ["Memoirs"]

# Records in one script, so that none lasts long.
_CHUNK = 200


class Memoirs:
    """See `Recording`."""

    def __init__(self, line: Line, keys: Keys, clock: Clock) -> None:
        self._line = line
        self._keys = keys
        self._wall = clock.time

    async def record(self, records: Sequence[Record]) -> None:
        """See `Recording.record`."""
        scripts = []
        for kind in sorted({record.kind for record in records}):
            bound = BOUNDS[kind]
            given = [r for r in records if r.kind == kind]
            for first in range(0, len(given), _CHUNK):
                words = [word for r in given[first : first + _CHUNK] for word in (r.place, r.subject, r.body)]
                oldest = place_at(self._wall() - bound.age)
                scripts.append((RECORD, self._keys.journal(kind), [oldest, bound.count, *words]))
        if scripts:
            for reply in await self._line.run_each(*scripts):
                said(reply, self._line.door)

    async def records(
        self, kind: str, *, subject: str | None = None, since: str = "", limit: int = 100, after: str | None = None
    ) -> Sequence[Record]:
        """See `Recording.records`."""
        places, bodies, subjects = self._keys.journal(kind)
        if subject is None:
            newest = "+" if after is None else f"({after}"
            found = await self._line.one("ZREVRANGEBYLEX", places, newest, f"[{since}", "LIMIT", 0, limit)
        else:
            newest = f"({subject}\1" if after is None else f"({subject}\0{after}"
            span = (newest, f"[{subject}\0{since}")
            behind = await self._line.one("ZREVRANGEBYLEX", subjects, *span, "LIMIT", 0, limit)
            found = [member.rpartition(b"\0")[2] for member in behind]
        if not found:
            return []
        kept = zip(found, await self._line.one("HMGET", bodies, *found), strict=True)
        return [_record(kind, place, raw) for place, raw in kept if raw is not None]  # else it was let go meanwhile


def _record(kind: str, place: bytes, raw: bytes) -> Record:
    subject, _, body = raw.partition(b"\0")
    return Record(kind, place.decode(), subject.decode(), body)
