"""Keeps the groups of dead letters up to date by reading only the new ones, and all again when some have gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from ..bus import Bus
from ..errors import UnknownSubscription
from ..grouping import DeadGroup, Grouping
from ..hold import OUTBOX
from .pulse import Pulse

__all__ = ["Counted", "Groups"]

_PAGE = 500
# A page waits so long for the count, and shows what there is then.
_PATIENCE = 0.15
# Reading all again takes at most a tenth of the time.
_SHARE, _LEAST = 10.0, 1.0


@dataclass(slots=True)
class _Shelf:
    """What was read of one subscription."""

    grouping: Grouping = field(default_factory=Grouping)
    last: UUID | None = None
    read_at: float = 0.0
    took: float = 0.0
    differed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Groups, and how far counting has come.

    Attributes:
        groups: the largest first.
        read: letters looked at so far.
        total: letters that there are.
    """

    groups: tuple[DeadGroup, ...]
    read: int
    total: int

    @property
    def complete(self) -> bool:
        """Whether all were looked at."""
        return self.read >= self.total


class Groups:
    """The groups of all dead letters of a bus, those of its outbox too."""

    def __init__(self, bus: Bus, pulse: Pulse) -> None:
        self._bus = bus
        self._pulse = pulse
        self._shelves: dict[str, _Shelf] = {}
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def look(self, *, patience: float = _PATIENCE) -> Counted:
        """The groups as far as they are counted; more will be at the next look."""
        snapshot = await self._pulse.now()
        dead = {name: one.dead for name, one in snapshot.stats.items()}
        if snapshot.outbox is not None:
            dead[OUTBOX] = snapshot.outbox.dead
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._loop is not loop:
            self._loop = loop
            self._task = asyncio.create_task(self._catch_up(dead), name="postbus-dashboard-groups")
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await asyncio.shield(self._task)
        shelves = [self._shelves[name] for name in dead if name in self._shelves]
        found = [group for shelf in shelves for group in shelf.grouping.groups()]
        return Counted(
            groups=tuple(sorted(found, key=lambda group: (-group.count, group.subscription, group.id))),
            read=sum(len(shelf.grouping) for shelf in shelves),
            total=sum(dead.values()),
        )

    def ids(self, group: str) -> list[UUID]:
        """The letters of one group, as far as they are read."""
        return [id_ for shelf in self._shelves.values() for id_ in shelf.grouping.ids(group)]

    def forget(self, subscription: str) -> None:
        """Some of its letters were taken away here: it is counted anew."""
        self._shelves.pop(subscription, None)

    async def _catch_up(self, dead: Mapping[str, int]) -> None:
        for name in self._shelves.keys() - dead.keys():
            del self._shelves[name]
        for name, count in dead.items():
            with suppress(UnknownSubscription):  # it was renamed or retired meanwhile
                await self._read(name, count)

    async def _read(self, name: str, dead: int) -> None:
        shelf = self._shelves.setdefault(name, _Shelf())
        if dead == len(shelf.grouping):
            shelf.differed = False
            return
        if dead > len(shelf.grouping):
            await self._read_on(name, shelf)
        if dead == len(shelf.grouping):
            return
        # Letters come and go while we look; a difference that stays means that others took some away.
        rested = time.monotonic() - shelf.read_at > max(_LEAST, shelf.took * _SHARE)
        if shelf.differed and rested:
            fresh = _Shelf()
            await self._read_on(name, fresh)
            self._shelves[name] = fresh
        else:
            shelf.differed = True

    async def _read_on(self, name: str, shelf: _Shelf) -> None:
        began = time.monotonic()
        while page := await self._bus.dead.list(name, limit=_PAGE, after=shelf.last):
            for letter in page:
                shelf.grouping.add(letter)
            shelf.last = page[-1].id
        shelf.read_at = time.monotonic()
        shelf.took = max(shelf.took, shelf.read_at - began)
