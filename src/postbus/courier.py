"""Carries appends from many callers to the transport: those that wait in the same loop turn leave as one batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from .errors import PostbusError, PublishFailed, PublishUnknown
from .observe import log
from .transport import Append, Outgoing, Refused, Transport, Unknown

__all__ = ["Courier"]

# Events in one batch: beyond this a batch only adds latency.
_BATCH = 500
# A transport answers within the timeout by its own contract.  Its answer says more than ours, so it comes first even
# where a busy loop is late with both.
_SLACK = 0.2


class _Parcel:
    __slots__ = ("arrived", "done", "items")

    def __init__(self, items: Sequence[Outgoing], done: asyncio.Future[Sequence[Append]], arrived: float) -> None:
        self.items = items
        self.done = done
        self.arrived = arrived


class Courier:
    """One event loop's way to the transport.  At most one batch is under way; the next one gathers meanwhile.

    Each caller awaits its own results: a neighbour that is refused, or stops waiting, changes nothing for the others.
    """

    def __init__(self, transport: Transport, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._transport = transport
        self._timeout = timeout
        self._waiting: list[_Parcel] = []
        self._busy = False  # a batch gathers or is under way
        self._alone = False  # one caller gathers, and nobody has joined him
        self._quiet = False  # the last batch was of one caller
        self._carrying: asyncio.Task[None] | None = None

    async def send(self, items: Sequence[Outgoing]) -> Sequence[Append]:
        """Append `items`, within the timeout.  Cancelled before it left, nothing is stored.

        Whoever is alone carries his batch by himself, and after one that was alone does not even wait for others: a
        task, an answer through a future and a look at who else publishes would cost a turn of the loop each.
        """
        parcel = _Parcel(items, self.loop.create_future(), time.monotonic())
        self._waiting.append(parcel)
        if self._busy:
            if self._alone:
                self._start()
            return await parcel.done
        self._busy = self._alone = True
        try:
            if not self._quiet:
                await asyncio.sleep(0)
            if self._alone:
                self._alone = False
                self._waiting.remove(parcel)
                return await self._ask(items, parcel.arrived)
        except asyncio.CancelledError:
            parcel.done.cancel()  # if somebody else carries it, it is left out
            raise
        finally:
            if self._carrying is None:
                self._quiet = not self._waiting
                self._start()
        return await parcel.done

    def _start(self) -> None:
        self._alone = False
        self._busy = bool(self._waiting)
        if self._busy:
            self._carrying = self.loop.create_task(self._carry())

    async def _carry(self) -> None:
        try:
            while batch := self._next_batch():
                await self._deliver(batch)
                self._quiet = len(batch) == 1
                await asyncio.sleep(0)  # those who were answered may publish again: they are in the next batch
        finally:
            self._busy, self._carrying = False, None
            if self._waiting:  # only after an error that is no answer of the transport's
                self._give_up()

    def _next_batch(self) -> list[_Parcel]:
        size = 0
        batch: list[_Parcel] = []
        while self._waiting and (not batch or size + len(self._waiting[0].items) <= _BATCH):
            parcel = self._waiting.pop(0)
            if parcel.done.done():  # its caller stopped waiting before it left
                continue
            batch.append(parcel)
            size += len(parcel.items)
        return batch

    async def _deliver(self, batch: list[_Parcel]) -> None:
        items = batch[0].items if len(batch) == 1 else [item for parcel in batch for item in parcel.items]
        try:
            _answer(batch, await self._ask(items, batch[0].arrived))
        except PostbusError as error:
            _fail(batch, error)
        finally:
            _fail(batch, PublishUnknown("the append was broken off: it may be stored; publish again with the same id"))

    async def _ask(self, items: Sequence[Outgoing], arrived: float) -> Sequence[Append]:
        left = arrived + self._timeout - time.monotonic()
        if left <= 0:
            return [Refused(PublishFailed(f"not published within {self._timeout:g} s"))] * len(items)
        try:
            async with asyncio.timeout(left + _SLACK):
                return await self._transport.append(items)
        except TimeoutError:  # it answers in time by its own contract; should it not, no caller hangs
            log.error("the transport did not answer an append within %g s", self._timeout)
            text = f"no answer within {self._timeout:g} s: it may be stored; publish again with the same id"
            return [Unknown(PublishUnknown(text))] * len(items)

    def _give_up(self) -> None:
        waiting, self._waiting = self._waiting, []
        _fail(waiting, PublishFailed("the bus was closed before the event left"))


def _answer(batch: list[_Parcel], results: Sequence[Append]) -> None:
    place = 0
    for parcel in batch:
        until = place + len(parcel.items)
        if not parcel.done.done():
            parcel.done.set_result(results[place:until])
        place = until


def _fail(batch: list[_Parcel], error: PostbusError) -> None:
    """Give `error` to whoever has no answer yet."""
    for parcel in batch:
        if not parcel.done.done():
            parcel.done.set_exception(error)
