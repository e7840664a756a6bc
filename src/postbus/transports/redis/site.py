"""What a bus needs for one server or for many: a line, a doorbell, and the lease thread's own way."""

from __future__ import annotations

from ...clock import Clock
from .bell import Bell
from .cluster import Cluster
from .door import Door
from .hotline import Hotline, Hotlines
from .line import Line
from .office import Office
from .shards import ShardedBell
from .slots import Slots

__all__ = ["bell_at", "hotline_to", "line_to"]


def line_to(door: Door, clock: Clock) -> Line:
    """The line that everything shares, not yet open."""
    return Cluster(door, clock) if isinstance(door, Slots) else Line(door, clock)


def bell_at(door: Door, office: Office) -> Bell:
    """The doorbell."""
    return ShardedBell(door, office) if isinstance(door, Slots) else Bell(door, office)


def hotline_to(door: Door, clock: Clock) -> Hotline | Hotlines:
    """The lease thread's way."""
    return Hotlines(door, clock) if isinstance(door, Slots) else Hotline(door, clock)
