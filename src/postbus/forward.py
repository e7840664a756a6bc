"""One batch from an outbox to its target: what was stored there, what never will be, and what is to be tried again.

Decides nothing about when.  An outage is told from an event that nobody can store by what became of its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from .envelope import Envelope
from .errors import NotAccepted, PostbusError, TooLarge, TransportError
from .spool import Waiting
from .transport import Append, Duplicate, Outgoing, Refused, Stored, Transport, Unknown

__all__ = ["Forward", "Line", "Round"]

# A log and a key.
Line: TypeAlias = tuple[str, str]

# An event that is refused so often, while others of its topic are taken, is none that waiting would help.
_STRIKES = 5
# So many of a topic's events are tried before it counts as one that takes nothing; more at each round, up to this.
_PROBES = (3, 64)


@dataclass(slots=True)
class Round:
    """What became of a batch.

    Attributes:
        stored: numbers that the target has.
        unrouted: how many of these no subscription took.
        duplicates: how many of these it had already.
        refused: numbers that it will never take, and why.
        left: what is to be tried again, in order.  What is in none of these was not tried, and waits in the outbox.
        held: logs and keys of which nothing may be sent before what is left of them.
        error: why, if something is left.
    """

    stored: list[int] = field(default_factory=list)
    unrouted: int = 0
    duplicates: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    left: list[Waiting] = field(default_factory=list)
    held: set[Line] = field(default_factory=set)
    error: PostbusError | None = None


class Forward:
    """Appends to one target.

    Args:
        require_subscription: as of the bus: an event that no subscription takes is refused.
    """

    def __init__(self, target: Transport, *, require_subscription: bool) -> None:
        self._target = target
        self._require = require_subscription
        self._strikes: dict[int, int] = {}
        self._probes = _PROBES[0]

    async def round(self, rows: Sequence[Waiting], delay_of: Callable[[Waiting], float]) -> Round:
        """Try all of it at once; what was refused together, apart.

        Nothing is sent before all earlier events of its key are known to be stored, or never to be.
        """
        self._delay_of = delay_of
        found = Round()
        sound = []
        for row in rows:
            if row.defect:
                found.refused.append((row.number, row.defect))
            else:
                sound.append(row)
        if sound:
            self._judge(found, sound, await self._append(sound))
        if len(found.left) > 1 and (found.stored or await self._answers()):
            await self._apart(found)
        if not found.left:
            self._probes = _PROBES[0]
        left = {row.number for row in found.left}
        self._strikes = {number: count for number, count in self._strikes.items() if number in left}
        return found

    async def _append(self, rows: Sequence[Waiting]) -> Sequence[Append]:
        items = [Outgoing(row.envelope, None, self._delay_of(row) if row.delay else 0.0, self._require) for row in rows]
        try:
            return await self._target.append(items)
        except TransportError as error:
            return [Unknown(error)] * len(items)

    def _judge(self, found: Round, rows: Iterable[Waiting], results: Iterable[Append]) -> None:
        for row, result in zip(rows, results, strict=True):
            match result:
                case Stored(routes):
                    found.stored.append(row.number)
                    found.unrouted += routes == 0
                case Duplicate():
                    found.stored.append(row.number)
                    found.duplicates += 1
                case Refused(error) if isinstance(error, TooLarge | NotAccepted):
                    found.refused.append((row.number, str(error)))
                case Refused(error) | Unknown(error):
                    found.left.append(row)
                    found.error = error

    async def _answers(self) -> bool:
        """Whether the target can be reached: only then is it worth while to look for whom it refuses."""
        ping = getattr(self._target, "ping", None)
        if ping is None:
            return True
        try:
            await ping()
        except TransportError:
            return False
        return True

    # -- one by one

    async def _apart(self, found: Round) -> None:
        """Each by itself: one that cannot be stored must not hold up all others.  Its own key waits behind it."""
        rows, found.left = found.left, []
        topics: dict[str, _Topic] = {}
        for row in rows:
            topic, line = topics.setdefault(row.envelope.log, _Topic()), _line(row.envelope)
            if line in found.held or (not topic.takes and len(topic.failed) >= self._probes):
                continue
            before = len(found.left)
            self._judge(found, [row], await self._append([row]))
            if len(found.left) == before:
                topic.takes = True
            else:
                topic.failed.append((row, str(found.error)))
                found.held |= {line} if line else set()
        if not all(topic.takes for topic in topics.values()):
            self._probes = min(2 * self._probes, _PROBES[1])
        for topic in topics.values():
            for row, why in topic.failed if topic.takes else ():
                self._strike(found, row, why)

    def _strike(self, found: Round, row: Waiting, why: str) -> None:
        """It was refused while others of its topic were taken: after some times of that it is given up."""
        count = self._strikes[row.number] = self._strikes.get(row.number, 0) + 1
        if count >= _STRIKES:
            found.left.remove(row)
            found.held.discard(_line(row.envelope) or ("", ""))
            found.refused.append((row.number, f"refused {count} times while others of its topic were taken: {why}"))


@dataclass(slots=True)
class _Topic:
    """What became of one topic's events: whether it takes any, and which failed with what."""

    takes: bool = False
    failed: list[tuple[Waiting, str]] = field(default_factory=list)


def _line(envelope: Envelope) -> Line | None:
    """What must stay in order; None where nothing must."""
    return None if envelope.key is None else (envelope.log, envelope.key)
