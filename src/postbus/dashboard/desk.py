"""What all visits of one dashboard share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ..bus import Bus
from ..doctor import examine
from ..finding import Finding
from ..graph import Graph, graph_of
from ..transport import StoredEvent
from .groups import Groups
from .kept import Kept
from .past import Past
from .pulse import Pulse
from .shown import Redact
from .tasks import Tasks

__all__ = ["Desk"]

# Looking at everything takes a moment, and changes slowly; what came last changes all the time.
_EXAMINED, _NEW = 10.0, 1.5
# So long a page waits for the doctor, who may ask a busy server many things.
_PATIENCE = 0.15
_NEWEST = 100


class Desk:
    """One dashboard of one bus.

    Attributes:
        bus: what is shown.
        redact: hides what must not be seen.
        target: what commands call the bus, such as `shop:bus`.
        title: whose dashboard it is.
        pulse: how everything stands.
        past: what the journal knows.
        groups: dead letters by what they have in common.
        tasks: long actions.
    """

    def __init__(self, bus: Bus, *, redact: Redact, target: str, title: str) -> None:
        self.bus = bus
        self.redact = redact
        self.target = target
        self.title = title
        self.pulse = Pulse(bus)
        self.past = Past(bus)
        self.groups = Groups(bus, self.pulse)
        self.tasks = Tasks(self.pulse)
        self._graph: Graph | None = None
        self._findings: Kept[Sequence[Finding]] = Kept(self._examine, _EXAMINED)
        self._found: Sequence[Finding] | None = None
        self._newest: Kept[Sequence[StoredEvent]] = Kept(self._list, _NEW)

    def graph(self) -> Graph:
        """Who publishes each event and who reacts: what the program declares, it declares once."""
        if self._graph is None:
            self._graph = graph_of(self.bus)
        return self._graph

    async def findings(self) -> Sequence[Finding] | None:
        """What `postbus doctor` says, or said last where it takes its time; None while it has not said anything yet."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                self._found = await self._findings.get()
        return self._found

    async def newest(self) -> Sequence[StoredEvent]:
        """The newest stored events, of a moment ago."""
        return await self._newest.get()

    async def _examine(self) -> Sequence[Finding]:
        return await examine(self.bus)

    async def _list(self) -> Sequence[StoredEvent]:
        return await self.bus.events.list(limit=_NEWEST)
