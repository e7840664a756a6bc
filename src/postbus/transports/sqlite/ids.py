"""Which events were stored lately, so that publishing one again stores it once.

Ids are remembered in buckets of ten minutes: this one and the last, so for at least as long.  Those of one batch are
mostly of one moment, as uuid7s are, and kept as one row for many: to remember and to forget them costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from .schema import Tables
from .spans import Execute, Inserter

__all__ = ["BUCKET", "Ids"]

BUCKET = 600
# Ids in one row, so that it fits in a page beside others, and milliseconds between its first and its last.
_TOGETHER = 48
_MOMENT = 3
# A row for so few would be no gain.
_FEW = 8
# So many rows between a batch's smallest and largest id are fetched to compare; with more, each id is asked for.
_COMPARED = 500


class Ids:
    """The statements on remembered ids."""

    def __init__(self, tables: Tables) -> None:
        self._find = tables(
            "SELECT id FROM {seen} WHERE bucket IN (?, ?) AND id BETWEEN ? AND ? UNION ALL "
            "SELECT ids FROM {seen_together} WHERE bucket IN (?, ?) AND low BETWEEN ? AND ? AND high >= ? LIMIT ?"
        )
        self._remember = Inserter(tables("INSERT INTO {seen} (bucket, id)"), 2)
        self._remember_together = Inserter(tables("INSERT INTO {seen_together} (bucket, low, high, ids)"), 4)

    def known(self, execute: Execute, now: float, ids: Sequence[bytes]) -> set[bytes]:
        """Those of the ids that are remembered; with some others, perhaps, that are remembered too."""
        bucket = int(now // BUCKET)
        low, high = (ids[0], ids[0]) if len(ids) == 1 else (min(ids), max(ids))
        found = self._between(execute, bucket, low, high)
        if found is not None:
            return found
        found = set()
        for id_ in ids:
            found |= self._between(execute, bucket, id_, id_) or set()
        return found

    def remember(self, execute: Execute, now: float, ids: Collection[bytes]) -> None:
        """Remember these, none of which is known."""
        bucket = int(now // BUCKET)
        if len(ids) < _FEW:
            self._remember(execute, [value for id_ in ids for value in (bucket, id_)])
            return
        together: list[object] = []
        single: list[object] = []
        for group in _moments(sorted(ids)):
            if len(group) < _FEW:
                single += [value for id_ in group for value in (bucket, id_)]
            else:
                together += (bucket, group[0], group[-1], b"".join(group))
        self._remember(execute, single)
        self._remember_together(execute, together)

    def _between(self, execute: Execute, bucket: int, low: bytes, high: bytes) -> set[bytes] | None:
        """What is remembered between two ids; None when that is too much to fetch."""
        limit = -1 if low == high else _COMPARED
        earliest = max(0, _milliseconds(low) - _MOMENT).to_bytes(6, "big")
        values = (bucket - 1, bucket, low, high, bucket - 1, bucket, earliest, high, low, limit)
        rows = execute(self._find, values).fetchall()
        if len(rows) == limit:
            return None
        return {ids[at : at + 16] for (ids,) in rows for at in range(0, len(ids), 16)}


def _moments(ids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Growing ids in groups of one moment each."""
    start = 0
    while start < len(ids):
        end = min(start + _TOGETHER, len(ids))
        while _milliseconds(ids[end - 1]) - _milliseconds(ids[start]) > _MOMENT:
            end = start + (end - start) // 2
        yield ids[start:end]
        start = end


def _milliseconds(id_: bytes) -> int:
    """When a uuid7 was made; of other ids, some number that grows with them."""
    return int.from_bytes(id_[:6], "big")
