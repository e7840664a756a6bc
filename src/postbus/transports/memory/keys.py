"""Which delivery of each (topic, key) may go, and which wait behind it.  For ordered subscriptions in memory."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

from ...delivery import Delivery
from ...envelope import Envelope

__all__ = ["Keys", "Waiting"]


class Waiting(NamedTuple):
    """A delivery behind another of its key: its place in the order of append, and when it is due (0: at once)."""

    place: int
    due: float
    delivery: Delivery


class _Lane:
    """One key.  It exists while something of it has gone and is not finished, or while a dead letter holds it."""

    __slots__ = ("behind", "gone", "parked")

    def __init__(self) -> None:
        self.gone = 1
        self.behind: deque[Waiting] = deque()
        self.parked: UUID | None = None


class Keys:
    """The keys of one subscription, and the order in which its events were appended."""

    __slots__ = ("_lanes", "_last", "_places")

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._places: dict[bytes, int] = {}
        self._last = 0

    def place(self, envelope: Envelope) -> int:
        """The event's place in the order of append; a new event gets the last one."""
        place = self._places.get(envelope.id_bytes)
        if place is None:
            self._last = place = self._last + 1
            self._places[envelope.id_bytes] = place
        return place

    def enter(self, delivery: Delivery, due: float) -> bool:
        """Whether this delivery may go; else it waits until `leave` or `unpark` returns it."""
        envelope = delivery.envelope
        place = self.place(envelope)
        if envelope.key is None:
            return True
        name = envelope.topic, envelope.key
        lane = self._lanes.get(name)
        if lane is None:
            self._lanes[name] = _Lane()
            return True
        waiting = Waiting(place, due, delivery)
        if not lane.behind or lane.behind[-1].place < place:
            lane.behind.append(waiting)
        else:
            insort(lane.behind, waiting, key=itemgetter(0))
        return False

    def hold(self, envelope: Envelope) -> None:
        """Count a delivery that went before its subscription was ordered."""
        self.place(envelope)
        if envelope.key is not None:
            name = envelope.topic, envelope.key
            lane = self._lanes.get(name)
            if lane is None:
                self._lanes[name] = _Lane()
            else:
                lane.gone += 1

    def leave(self, envelope: Envelope) -> Waiting | None:
        """A delivery that had gone is finished for good: return the one that may go now."""
        self.forget(envelope)
        return self._next(envelope)

    def bury(self, envelope: Envelope, letter: UUID, *, park: bool) -> Waiting | None:
        """A delivery that had gone is a dead letter now, and keeps its place for a replay; return what may go."""
        lane = self._lane(envelope)
        if park and lane is not None:
            lane.parked = letter
        return self._next(envelope)

    def unpark(self, envelope: Envelope, letter: UUID) -> Waiting | None:
        """This dead letter is gone: where it held its key, return what may go now."""
        lane = self._lane(envelope)
        if lane is None or lane.parked != letter:
            return None
        lane.parked = None
        lane.gone += 1
        return self._next(envelope)

    def forget(self, envelope: Envelope) -> None:
        """Forget the event's place."""
        self._places.pop(envelope.id_bytes, None)

    def replace(self, envelope: Envelope, other: Envelope) -> None:
        """Give the event's place to another one."""
        self._places[other.id_bytes] = self.place(envelope)
        self.forget(envelope)

    def waiting(self) -> Iterator[tuple[Waiting, bool]]:
        """All that wait behind their key, and whether the key is parked."""
        for lane in self._lanes.values():
            for waiting in lane.behind:
                yield waiting, lane.parked is not None

    @property
    def parked(self) -> int:
        """How many keys a dead letter holds."""
        return sum(lane.parked is not None for lane in self._lanes.values())

    def _lane(self, envelope: Envelope) -> _Lane | None:
        return None if envelope.key is None else self._lanes.get((envelope.topic, envelope.key))

    def _next(self, envelope: Envelope) -> Waiting | None:
        if envelope.key is None:
            return None
        name = envelope.topic, envelope.key
        lane = self._lanes.get(name)
        if lane is None:
            return None
        lane.gone -= 1
        if lane.gone > 0 or lane.parked is not None:
            return None
        if lane.behind:
            lane.gone = 1
            return lane.behind.popleft()
        del self._lanes[name]
        return None
