"""Publishes what happens, and keeps the board and the list of what was accepted in step with it."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID, uuid4

from postbus import Bus, Envelope, PublishFailed, PublishUnknown

from .board import note_accepted
from .storm import Happening

__all__ = ["Announcer"]

PATIENCE = 30.0


class _Withdrawn(Exception):
    """Raised inside a transaction, to roll it back."""


class Announcer:
    """The one publisher of a run.

    Attributes:
        count: events accepted.
        withdrawn: ids of events that were published in a transaction which was rolled back.
    """

    def __init__(self, bus: Bus, connection: sqlite3.Connection, *, enlists: bool) -> None:
        self.count = 0
        self.withdrawn: set[UUID] = set()
        self._bus = bus
        self._connection = connection
        self._enlists = enlists

    async def announce(self, batch: Sequence[Happening]) -> None:
        """Publish a batch in order: in one transaction with the board, where the bus can join it."""
        if self._enlists:
            await self._in_one_transaction(batch)
        else:
            for happening in batch:
                envelope = await self._surely(happening)
                note_accepted(self._connection, envelope, happening.event.leg.flight)
        self.count += len(batch)

    async def withdraw(self, batch: Sequence[Happening]) -> int:
        """Publish a batch as `announce` does, and let its transaction fail at the end; return how many that were."""
        if not self._enlists:
            return 0
        with suppress(_Withdrawn):
            await self._in_one_transaction(batch, fail=True)
        return len(batch)

    async def _in_one_transaction(self, batch: Sequence[Happening], *, fail: bool = False) -> None:
        async with self._bus.transaction(self._connection) as tx:
            envelopes = await self._bus.publish_many([happening.event for happening in batch], within=tx)
            for happening, envelope in zip(batch, envelopes, strict=True):
                note_accepted(self._connection, envelope, happening.event.leg.flight)
            if fail:
                self.withdrawn |= {envelope.id for envelope in envelopes}
                raise _Withdrawn

    async def _surely(self, happening: Happening) -> Envelope:
        """Publish one event, again under the same id when the answer was lost: it is stored once."""
        id_, until = uuid4(), time.monotonic() + PATIENCE
        while True:
            try:
                return await self._bus.publish(happening.event, id=id_)
            except (PublishFailed, PublishUnknown):
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.2)
