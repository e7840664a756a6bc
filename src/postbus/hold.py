"""What a relay has read of its outbox and not yet forgotten there: read ahead, forgotten behind, never held twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from .errors import ConfigError, TransportBroken, TransportError
from .forward import Line, Round
from .spool import Spool, Waiting
from .transport import SubscriptionSpec, Transport

__all__ = ["OUTBOX", "Hold", "outbox_spec", "spool_of"]

# The one subscription of an outbox, which holds whatever was published and not yet relayed.
OUTBOX: Final = "postbus.outbox"

# Batches that may be stored at the target and not yet forgotten here: all that a crash sends again.
_BEHIND = 3
_PAUSE = (0.05, 1.0)
# Bytes of bodies that are sent at once, and read at once as soon as their size is known: the first batch is small.
_BYTES = 4 * 1024 * 1024
_FIRST = 64
# Rows in hand beyond a batch, so that those which nobody can store do not keep others from being read.
_BEYOND = 128


def outbox_spec() -> SubscriptionSpec:
    """The declaration of an outbox's subscription."""
    return SubscriptionSpec(name=OUTBOX, wants=(">",), handler="postbus.relay:Relay")


def spool_of(store: Transport) -> Spool:
    """Return the transport as one that can be an outbox.

    Raises:
        ConfigError: when it cannot.
    """
    if isinstance(store, Spool):
        return store
    raise ConfigError(
        f"outbox= a {store.traits.name}:// URL: expected postgresql:// or sqlite:///, whose transactions "
        f"publishes can join"
    )


class Hold:
    """Rows on their way from an outbox to its target.

    Attributes:
        numbers: of all rows that are read and not forgotten.
        left: rows that are to be tried again, in order.
    """

    def __init__(self, spool: Spool, failed: Callable[[str], None]) -> None:
        self.numbers: set[int] = set()
        self.left: list[Waiting] = []
        self._spool = spool
        self._failed = failed
        self._limit = _FIRST
        self._held: set[Line] = set()
        self._due: dict[int, float] = {}
        self._ahead: asyncio.Task[Sequence[Waiting]] | None = None
        self._stored: list[int] = []
        self._forgetting: asyncio.Task[None] | None = None
        self._broken: TransportBroken | None = None

    # -- in

    async def next(self, limit: int, *, ahead: bool) -> list[Waiting]:
        """What is left, and of what waits behind it so many more that they are `limit`; read the next ones `ahead`.

        Raises:
            TransportError: when the store cannot be read; what is left stays.
        """
        if self._broken is not None:
            raise self._broken
        reading, self._ahead = self._ahead, None
        wanted = min(limit, self._limit)
        found: Sequence[Waiting] = ()
        if reading is not None:
            found = await reading
        elif len(self.left) < wanted + _BEYOND:
            found = await self._read(max(1, wanted - len(self.left)))
        self._pace(found)
        # By number: of what was left, some may have come in before these.
        rows, self.left = sorted([*self.left, *found], key=lambda row: row.number), []
        self.numbers.update(row.number for row in rows)
        if ahead and len(rows) >= wanted:
            self._ahead = asyncio.get_running_loop().create_task(self._read(min(limit, self._limit)))
        return rows

    def _pace(self, rows: Sequence[Waiting]) -> None:
        """More rows next time, or fewer, by how large these are."""
        size = sum(len(row.envelope.body) for row in rows)
        if size > _BYTES:
            self._limit = max(1, len(rows) * _BYTES // size)
        elif len(rows) >= self._limit:
            self._limit *= 2

    async def _read(self, limit: int) -> Sequence[Waiting]:
        rows = await self._spool.waiting(OUTBOX, limit=limit, skip=tuple(self.numbers), without=tuple(self._held))
        # The store reckoned what is left of a delay before this moment: so nothing is early.
        now = time.monotonic()
        self._due.update((row.number, now + row.delay) for row in rows if row.delay)
        return rows

    def delay_of(self, row: Waiting) -> float:
        """Seconds that are left of its delay now."""
        return max(0.0, self._due[row.number] - time.monotonic())

    def let_go(self) -> None:
        """Another relay is to have what was not sent."""
        if self._ahead is not None:
            self._ahead.cancel()
            self._ahead = None
        self.numbers.difference_update(row.number for row in self.left)
        self.left, self._held = [], set()

    # -- out

    async def take_back(self, rows: Sequence[Waiting], found: Round) -> None:
        """What became of rows: forget, bury, keep to try again, or let go."""
        if found.left and self._ahead is not None:  # what was read ahead comes behind what is left, next time
            self._ahead.cancel()
            self._ahead = None
        self.left, self._held = found.left, found.held
        refused = [number for number, _ in found.refused]
        tried = {*found.stored, *refused, *(row.number for row in found.left)}
        self.numbers.difference_update(row.number for row in rows if row.number not in tried)
        self._stored += found.stored
        if self._stored and self._forgetting is None:
            self._forgetting = asyncio.get_running_loop().create_task(self._forget())
        if found.refused:
            await self._insist(lambda: self._spool.undeliverable(OUTBOX, found.refused))
            self._gone(refused)
        if self._forgetting is not None and len(self._stored) > _BEHIND * len(found.stored):
            await asyncio.wait([self._forgetting])

    async def _forget(self) -> None:
        """One statement is under way at a time, with all that was stored meanwhile."""
        try:
            while numbers := self._stored[:]:
                await self._insist(lambda: self._spool.forwarded(OUTBOX, numbers))
                del self._stored[: len(numbers)]
                self._gone(numbers)
        except TransportBroken as error:
            self._broken = error
        finally:
            self._forgetting = None

    def _gone(self, numbers: Sequence[int]) -> None:
        self.numbers.difference_update(numbers)
        for number in numbers:
            self._due.pop(number, None)

    async def _insist(self, act: Callable[[], Awaitable[None]]) -> None:
        """Until the store has done it: what is forgotten twice is no harm, what is not would be sent again."""
        pause = _PAUSE[0]
        while True:
            try:
                return await act()
            except TransportBroken:
                raise
            except TransportError as error:
                self._failed(f"the outbox cannot be reached: {error}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE[1])

    async def close(self, patience: float = 1.0) -> None:
        """Let go of everything; what was stored is forgotten, if that takes no longer than `patience` seconds."""
        self.let_go()
        if self._forgetting is not None:
            await asyncio.wait([self._forgetting], timeout=patience)
        if self._forgetting is not None:
            self._forgetting.cancel()
        self.numbers.clear()
