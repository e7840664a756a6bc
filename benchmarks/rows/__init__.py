"""The table: every scenario with its contenders, one line each, and what postbus must reach there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..harness import Row
from . import local, postgres, redis, seen

__all__ = ["ROWS", "SECTIONS"]

SECTIONS: Mapping[str, Sequence[Row]] = {
    "In this process and on SQLite": local.ROWS,
    "Redis": redis.ROWS,
    "PostgreSQL": postgres.ROWS,
    "What it costs to be seen": seen.ROWS,
}
ROWS: Sequence[Row] = tuple(row for rows in SECTIONS.values() for row in rows)
