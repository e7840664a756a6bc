"""Plain reads of new entries, for a moment after a script call that found nothing else due: they cost half as much."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from ...delivery import Ack, Bury, Delivery, Outcome, Requeue
from ...errors import TransportError
from ...transport import Claimed
from .given import Given
from .line import Command, Line
from .office import Office
from .registry import Record
from .settling import Delay, Receipt
from .wire import Malformed, Newer, due_of, envelope_of, salvaged, words_of

__all__ = ["Ask", "Read", "Reading", "verdict"]

# Seconds for which new entries are read without the script: what is due meanwhile is that much late at most.
_DIRECT = 0.02
# Seconds for which an event of a format that is not known here is offered again; a bus has the same for unknown names.
_LEFT_FOR_NEWER = 300.0


class Ask(NamedTuple):
    """What is asked for."""

    record: Record
    owner: str
    limit: int
    lease: float
    alone: bool


class _Direct(NamedTuple):
    """Until when, on the monotonic clock, new entries may be read without the script, and from where."""

    until: float
    revision: bytes
    topic: str
    group: bytes
    lease: float
    wanted: dict[bytes, bool]


class Read(NamedTuple):
    """What was read without the script.

    `changed`: the registry is another one by now, so all of it goes back.  `rung`: something was made ready meanwhile
    that is not new.  `due`: seconds until the script must look.
    """

    found: Sequence[Delivery]
    moved: Sequence[tuple[Delivery, Outcome | Delay]]
    changed: bool = False
    rung: bool = False
    due: float | None = None

    def all_there_is(self, limit: int) -> Claimed | None:
        """What the claim gives; None when the script must be asked too."""
        if self.moved or self.changed or self.rung or not self.found:
            return None
        return Claimed(self.found, self.due if len(self.found) < limit else None)


_NOTHING_READ = Read((), ())


class Reading:
    """Reads new entries."""

    def __init__(self, line: Line, office: Office, given: Given) -> None:
        self._line = line
        self._office = office
        self._given = given
        self._direct: dict[int, _Direct] = {}

    def look_closely(self, number: int) -> None:
        """Something of this subscription was moved: it may be due."""
        self._direct.pop(number, None)

    def note(self, ask: Ask, revision: bytes, topic: str, reply: Sequence[Any]) -> None:
        """What a script call said: whether new entries may be read without it, and until when."""
        next_due, suspects, more, group = reply[:4]
        number = ask.record.number
        if not group or suspects or more:
            self._direct.pop(number, None)
            return
        known = self._direct.get(number)
        wanted = known.wanted if known is not None and known.revision == revision else {}
        now = time.monotonic()
        until = now + (_DIRECT if next_due < 0 else min(_DIRECT, next_due / 1000))
        self._direct[number] = _Direct(until, revision, topic, group, ask.lease, wanted)

    def read_now(
        self, name: str, owner: str, limit: int, lease: float, left: Callable[[Read], None]
    ) -> Awaitable[Read] | None:
        """Ask for new entries on the spot, while the last script call is so young that nothing else can be due.

        None where that cannot be.  `left` is given what comes after the caller was cancelled.
        """
        registry = self._office.last
        record = None if registry is None else registry.by_name.get(name)
        if record is None or limit < 1 or self._given.missing(owner, record.number):
            return None
        ask = Ask(record, owner, limit, lease, alone=False)
        direct = self._open_way(ask)
        if direct is None:
            return None
        answered = self._given.begin(record.number)

        def orphaned(replies: list[Any] | None) -> None:
            answered()
            if replies is None:
                self._given.lost(owner, ask.record.number)
            else:
                left(self._heard(ask, direct, replies))

        asked = self._line.asked(self._question(ask, direct), orphaned)
        if asked is None:
            answered()
            return None
        return self._hear(ask, direct, asked, answered, orphaned)

    async def _hear(
        self,
        ask: Ask,
        direct: _Direct,
        asked: asyncio.Future[list[Any]],
        answered: Callable[[], None],
        orphaned: Callable[[list[Any] | None], None],
    ) -> Read:
        try:
            replies = await asked
        except asyncio.CancelledError:
            if not asked.cancelled():  # the answer came in the same turn of the loop
                orphaned(asked.result() if asked.exception() is None else None)
            raise
        except TransportError:
            self._given.lost(ask.owner, ask.record.number)
            answered()
            raise
        answered()
        return self._heard(ask, direct, replies)

    async def read(self, ask: Ask) -> Read:
        """As `read_now`, within a claim."""
        direct = self._open_way(ask)
        if direct is None:
            return _NOTHING_READ
        return self._heard(ask, direct, await self._line.ask(*self._question(ask, direct)))

    def _open_way(self, ask: Ask) -> _Direct | None:
        """From where new entries may be read without the script."""
        direct, registry = self._direct.get(ask.record.number), self._office.last
        if direct is None or registry is None:
            return None
        late = time.monotonic() >= direct.until or ask.lease < direct.lease
        if late or registry.revision != direct.revision:
            self.look_closely(ask.record.number)
            return None
        return direct

    def _question(self, ask: Ask, direct: _Direct) -> tuple[Command, ...]:
        """The bells first: whoever appends behind that rings again, and what was appended before it is read."""
        keys = self._office.keys
        tag, number = keys.tag(direct.topic), ask.record.number
        consumer = f"{ask.owner}|{max(1, round(ask.lease * 1000))}"
        return (
            ("HDEL", f"{tag}:c", "bell"),
            ("HDEL", f"{tag}:{number}:c", "bell"),
            ("HGET", keys.registry[0], "revision"),
            ("TIME",),
            (
                "XREADGROUP",
                "GROUP",
                direct.group,
                consumer,
                "COUNT",
                ask.limit,
                "STREAMS",
                keys.stream(direct.topic),
                ">",
            ),
        )

    def _heard(self, ask: Ask, direct: _Direct, replies: Sequence[Any]) -> Read:
        _, rung, revision, now, reply = replies
        if not reply or isinstance(reply, ResponseError) or isinstance(now, ResponseError):
            return _NOTHING_READ
        entries = reply[0][1]
        found, moved = self._sort_out(ask, direct, entries, int(now[0]) * 1_000_000 + int(now[1]) + 1)
        # What else comes due meanwhile is found when the next script call is, and no later than that.
        return Read(found, moved, revision != direct.revision, rung != 0, direct.until - time.monotonic())

    def _sort_out(
        self, ask: Ask, direct: _Direct, entries: Sequence[Any], fence: int
    ) -> tuple[list[Delivery], list[tuple[Delivery, Outcome | Delay]]]:
        """Deliveries, and what becomes of the entries that are none: unwanted, delayed or malformed."""
        found: list[Delivery] = []
        moved: list[tuple[Delivery, Outcome | Delay]] = []
        number, name = str(ask.record.number), ask.record.name
        topic, group, owner = direct.topic, direct.group, ask.owner
        batch = self._given.batch(owner, ask.record.number)
        for n, (entry, fields) in enumerate(entries, fence):
            event_name, key, packed = words_of(topic, fields)
            receipt = Receipt(topic, number, group, entry, owner, key, batch)
            batch.ids.append((topic, entry))
            try:
                envelope = envelope_of(topic, entry, event_name, key, packed)
                outcome: Outcome | None = None
            except Malformed as error:
                envelope = salvaged(topic, entry, event_name, key, packed)
                outcome = verdict(error, entry)
            delivery = Delivery(envelope, name, 1, n, owner, receipt)
            wanted = direct.wanted.get(event_name)
            if wanted is None:
                wanted = direct.wanted[event_name] = ask.record.spec.takes(envelope.name, topic)
            if not wanted:
                moved.append((delivery, Ack()))
            elif outcome is not None:
                moved.append((delivery, outcome))
            elif (due := due_of(fields)) is not None:
                moved.append((delivery, Delay(due)))
            else:
                found.append(delivery)
        return found, moved


def verdict(error: Malformed, entry: bytes) -> Outcome:
    """What becomes of an entry that cannot be read: one of a newer postbus is left for newer workers for a while."""
    age = time.time() - int(entry.partition(b"-")[0]) / 1000
    if isinstance(error, Newer) and age < _LEFT_FOR_NEWER:
        return Requeue(_LEFT_FOR_NEWER / 60)
    return Bury(str(error)[:500])
