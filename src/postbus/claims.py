"""Brings work from the transport to the lanes: doorbell, polling, due times, back-off.  The only caller of `claim`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from .delivery import Delivery
from .dice import dice
from .errors import TransportBroken, TransportError, UnknownSubscription
from .lanes import Lane
from .observe import Counters, log
from .transport import Claimed, Transport

__all__ = ["Claims"]

_BACKOFF = (0.05, 1.0)


class Claims:
    """Claims for the lanes of one worker.

    Args:
        spawn: runs a coroutine as one of the worker's tasks.
        open: whether the worker wants work now.
        ready: told that a lane holds something to start.
        refuse: given what arrived when the worker wanted none any more.
        suspects: told that a lane has suspects.
    """

    def __init__(
        self,
        transport: Transport,
        lanes: Mapping[str, Lane],
        counters: Counters,
        *,
        owner: str,
        lease: float,
        poll: float,
        declare: Callable[[], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        open: Callable[[], bool],  # noqa: A002 - the word fits, and nothing here opens files
        ready: Callable[[Lane], None],
        refuse: Callable[[Lane, Sequence[Delivery]], None],
        suspects: Callable[[Lane], None],
    ) -> None:
        self._transport = transport
        self._lanes = lanes
        self._counters = counters
        self._owner = owner
        self._lease = lease
        self._poll_after = poll
        self.declare = declare
        self._spawn = spawn
        self._open = open
        self._ready = ready
        self._refuse = refuse
        self._suspects = suspects
        self._due: asyncio.TimerHandle | None = None
        self._due_at: float | None = None

    def start(self) -> None:
        """Begin to listen, and look for work at once."""
        if not self._lanes:  # a worker that only relays: a bell that is rung for nobody would never rest
            return
        self._spawn(self._listen())
        self._spawn(self._poll())
        for lane in self._lanes.values():
            self.feed(lane)

    def close(self) -> None:
        """Forget due times."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def ring(self, lane: Lane) -> None:
        """There may be work for this lane."""
        lane.rung = True
        self.feed(lane)

    def feed(self, lane: Lane) -> None:
        """Claim for a lane that may have work and has room."""
        if lane.rung and not lane.claiming and self._open():
            room = lane.room(time.monotonic())
            if room > 0:
                lane.claiming = True
                self._spawn(self._claim(lane, room))

    async def feed_here(self, lane: Lane) -> None:
        """As `feed`, for a caller who does it by himself."""
        if lane.rung and not lane.claiming and self._open():
            room = lane.room(time.monotonic())
            if room > 0:
                lane.claiming = True
                await self._claim(lane, room)

    async def alone(self, lane: Lane) -> Sequence[Delivery]:
        """Claim one suspect for somebody who runs nothing beside it."""
        claimed = await self._try_claim(lane, 1, alone=True)
        if claimed is None:
            await asyncio.sleep(lane.backoff)
            return ()
        lane.suspects = claimed.suspects and bool(claimed.deliveries)
        self._note_due(lane, claimed.next_due)
        return claimed.deliveries

    def due_in(self, lane: Lane, after: float) -> None:
        """A delivery of this lane will be due: we requeued it, and know without asking."""
        due = time.monotonic() + after
        if lane.due_at is None or due < lane.due_at:
            lane.due_at = due
            self._arm()

    async def _listen(self) -> None:
        """The doorbell: says which lanes may have work.

        Who hears it claims for the first of them by himself, a turn of the loop sooner, and another one listens on.
        """
        names = tuple(self._lanes)
        pause = 0.0
        while True:
            try:
                rung = await self._transport.wait(names, self._poll_after)
                pause = 0.0
            except TransportBroken:
                raise
            except TransportError:
                self._counters.transport_errors += 1
                pause = min(max(2 * pause, _BACKOFF[0]), _BACKOFF[1])
                await asyncio.sleep(pause)
                continue
            lanes = [self._lanes[name] for name in rung]
            for lane in lanes:
                lane.rung = True
            for lane in lanes[1:]:
                self.feed(lane)
            if lanes:
                self._spawn(self._listen())
                await self.feed_here(lanes[0])
                return

    async def _poll(self) -> None:
        """Polling is the truth: a bell that was not heard costs at most this long."""
        while True:
            await asyncio.sleep(self._poll_after)
            for lane in self._lanes.values():
                self.ring(lane)

    async def _claim(self, lane: Lane, room: int) -> None:
        try:
            if lane.backoff:
                await asyncio.sleep(lane.backoff * dice.uniform(0.8, 1.2))
            began = time.monotonic()
            lane.rung, lane.finished, lane.claimed_at = False, 0, began
            claimed = await self._try_claim(lane, room, alone=False)
        finally:
            lane.claiming = False
        if claimed is None:
            self.feed(lane)
            return
        if not self._open():
            lane.rung = True
            self._refuse(lane, claimed.deliveries)
            return
        if claimed.deliveries:
            lane.take_in(claimed.deliveries, time.monotonic(), began + self._lease)
            lane.rung = lane.rung or len(claimed.deliveries) == room
            self._ready(lane)
        self._note_due(lane, claimed.next_due)
        if claimed.suspects:
            self._suspects(lane)
        self.feed(lane)

    async def _try_claim(self, lane: Lane, limit: int, *, alone: bool) -> Claimed | None:
        """Claim, or return None after an error that trying again may mend."""
        try:
            claimed = await self._transport.claim(
                lane.name, owner=self._owner, limit=limit, lease=self._lease, alone=alone
            )
        except UnknownSubscription:
            log.warning("subscription %r is gone from the transport: declaring it again", lane.name)
            await self._declare_again()
        except TransportBroken:
            raise
        except TransportError as error:
            if not lane.backoff:
                log.warning("cannot claim for %r: %s; trying on", lane.name, error)
        else:
            if lane.backoff:
                log.info("claiming for %r works again", lane.name)
            lane.backoff = 0.0
            return claimed
        self._counters.transport_errors += 1
        lane.rung = True
        lane.backoff = min(max(2 * lane.backoff, _BACKOFF[0]), _BACKOFF[1])
        return None

    async def _declare_again(self) -> None:
        try:
            await self.declare()
        except TransportBroken:
            raise
        except TransportError as error:
            log.warning("cannot declare subscriptions: %s; trying on", error)

    def _note_due(self, lane: Lane, next_due: float | None) -> None:
        lane.due_at = None if next_due is None else time.monotonic() + next_due
        self._arm()

    def _arm(self) -> None:
        """One timer for all lanes: the next delayed delivery that comes due."""
        due = min((lane.due_at for lane in self._lanes.values() if lane.due_at is not None), default=None)
        if due == self._due_at and self._due is not None:
            return
        if self._due is not None:
            self._due.cancel()
            self._due = None
        self._due_at = due
        if due is not None:
            self._due = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._ring_due)

    def _ring_due(self) -> None:
        now = time.monotonic()
        self._due = self._due_at = None
        for lane in self._lanes.values():
            if lane.due_at is not None and lane.due_at <= now + 0.0005:
                lane.due_at = None
                self.ring(lane)
        self._arm()
