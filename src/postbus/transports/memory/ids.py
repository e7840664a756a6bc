"""Which ids were stored in the last minutes: exactly, and at 16 bytes each while they grow, as uuid7 ids do."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from ...clock import Clock

__all__ = ["RUN", "RecentIds"]

# Ids in one folded run.
RUN = 4096
_SIZE = 16
# An id that claims to be from further ahead is no clock's: it must not make every later id look old.
_AHEAD = 86_400.0


class _Generation:
    """The ids of one window.

    Those greater than all before them are folded into sorted runs of bytes; the others, few as a rule, are a set.
    """

    __slots__ = ("firsts", "runs", "strays")

    def __init__(self) -> None:
        self.firsts: list[bytes] = []
        self.runs: list[bytes] = []
        self.strays: set[bytes] = set()

    def __contains__(self, event_id: bytes) -> bool:
        if event_id in self.strays:
            return True
        place = bisect_right(self.firsts, event_id) - 1
        return place >= 0 and _in_run(self.runs[place], event_id)

    @property
    def last(self) -> bytes:
        return self.runs[-1][-_SIZE:] if self.runs else b""


class RecentIds:
    """Remembers ids for at least `window` seconds and at most about twice as long: two sets that take turns.

    Whoever adds millions may add an id between `top` and `limit`, which is new, by hand: make it the `top`, append it
    to `growing`, and call `tidy` once in a while.
    """

    def __init__(self, clock: Clock, window: float) -> None:
        self._clock = clock
        self._window = window
        self._now = _Generation()
        self._before = _Generation()
        self._turn_at = 0.0
        self.growing: list[bytes] = []
        self.top = b""
        self.limit = b""
        self._turn()

    def add(self, event_id: bytes) -> bool:
        """Remember an id; return whether it is new."""
        if self._clock.monotonic() >= self._turn_at:
            self._turn()
        if self.top < event_id < self.limit:
            # Greater than every remembered id below the limit, so it needs no look.
            self.top = event_id
            self.growing.append(event_id)
            return True
        if self._knows(event_id):
            return False
        self._now.strays.add(event_id)
        return True

    def tidy(self) -> None:
        """Fold what has grown into fewer bytes, once it is worth it."""
        if len(self.growing) >= RUN:
            self._fold()
            if self._clock.monotonic() >= self._turn_at:
                self._turn()

    def _knows(self, event_id: bytes) -> bool:
        if event_id in self._now or event_id in self._before:
            return True
        place = bisect_left(self.growing, event_id)
        return place < len(self.growing) and self.growing[place] == event_id

    def _fold(self) -> None:
        if self.growing:
            self._now.firsts.append(self.growing[0])
            self._now.runs.append(b"".join(self.growing))
            self.growing.clear()

    def _turn(self) -> None:
        self._fold()
        self._before, self._now = self._now, _Generation()
        self.limit = _uuid7_prefix(self._clock.time() + _AHEAD)
        self.top = max((stray for stray in self._before.strays if stray < self.limit), default=b"")
        self.top = max(self.top, self._before.last)
        self._turn_at = self._clock.monotonic() + self._window


def _in_run(run: bytes, event_id: bytes) -> bool:
    low, high = 0, len(run) // _SIZE
    while low < high:
        middle = (low + high) // 2
        if run[middle * _SIZE : middle * _SIZE + _SIZE] < event_id:
            low = middle + 1
        else:
            high = middle
    return run[low * _SIZE : low * _SIZE + _SIZE] == event_id


def _uuid7_prefix(time: float) -> bytes:
    return min(max(int(time * 1000), 0), 2**48 - 1).to_bytes(6, "big")
