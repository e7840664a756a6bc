"""The Redis transport itself: open and closed, and what becomes of calls that are cancelled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Coroutine, Sequence, Set
from typing import Any

from ...address import Settings
from ...delivery import Delivery, Outcome, Release
from ...errors import Closed, ForkError, PostbusError
from ...transport import (
    Append,
    Claimed,
    Conflict,
    Outgoing,
    Renewer,
    Settle,
    SubscriptionSpec,
    Traits,
)
from .appending import Appending
from .bell import Bell
from .claiming import Claiming
from .desk import Desk
from .door import Door
from .line import Line
from .office import Office
from .registry import Keys
from .renewing import RedisRenewer
from .settling import Settling
from .trimming import Trimming

__all__ = ["RedisTransport"]

_RELEASE = Release()


class RedisTransport(Desk):
    """See `connect`."""

    def __init__(self, door: Door, settings: Settings) -> None:
        super().__init__()
        self._door = door
        self._settings = settings
        self._traits = Traits(name="redis", durable="server", dedup_window=600.0)
        self._keys = Keys(settings.namespace)
        self._pid = os.getpid()
        self._background: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<redis transport of {self._door}>"

    @property
    def traits(self) -> Traits:
        """What Redis can promise."""
        return self._traits

    # -- open and close

    async def open(self) -> None:
        """Connect."""
        self._check_process()
        if self._line is not None:
            return
        line = Line(self._door)
        await line.one("PING")
        self._line = line
        self._office = Office(line, self._keys, self._settings.retain)
        self._trimming = Trimming(line, self._keys, self._settings.retain)
        self._settling = Settling(line, self._keys, self._trimming.note)
        self._appending = Appending(line, self._office, self._settings)
        self._claiming = Claiming(line, self._office, self._settling)
        self._settling.moved = self._claiming.look_closely
        self._bell = Bell(self._door, self._office)

    async def close(self) -> None:
        """Hang up."""
        line, self._line = self._line, None
        if line is None or self._pid != os.getpid():
            return
        await self._trimming.close()
        await self._bell.close()
        while self._background:
            await asyncio.gather(*self._background, return_exceptions=True)
        await line.close()

    def _check(self) -> None:
        """Raise unless it is open, here."""
        self._check_process()
        if self._line is None:
            raise Closed(f"the transport of {self._door} is not open")

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ForkError(f"the transport of {self._door} was made before a fork: make one in each process")

    # -- the road

    async def declare(self, subscriptions: Sequence[SubscriptionSpec], *, newest: bool = False) -> Sequence[Conflict]:
        """See `Transport.declare`."""
        self._check()
        conflicts = await self._office.declare(subscriptions, newest=newest)
        self._bell.ring([spec.name for spec in subscriptions])
        return conflicts

    async def append(self, items: Sequence[Outgoing]) -> Sequence[Append]:
        """See `Transport.append`."""
        self._check()
        if not items:
            return []
        for item in items:
            self._trimming.note(item.envelope.topic)
        return await self._appending.append(items)

    async def wait(self, subscriptions: Collection[str], timeout: float) -> Set[str]:
        """See `Transport.wait`."""
        self._check()
        return await self._bell.wait(subscriptions, timeout)

    async def claim(self, subscription: str, *, owner: str, limit: int, lease: float, alone: bool = False) -> Claimed:
        """See `Transport.claim`."""
        self._check()
        claiming = self._spawn(self._claiming.claim(subscription, owner, limit, lease, alone=alone))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            self._spawn(self._hand_back(claiming))
            raise

    async def _hand_back(self, claiming: asyncio.Task[Claimed]) -> None:
        """Nobody waits for what this claim gives."""
        try:
            claimed = await claiming
            if claimed.deliveries:
                await self._settling.settle([(delivery, _RELEASE) for delivery in claimed.deliveries])
        except PostbusError:  # its leases end by themselves
            return

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def settle(self, settlements: Sequence[tuple[Delivery, Outcome]]) -> Sequence[Settle]:
        """See `Transport.settle`."""
        self._check()
        return await self._settling.settle(settlements)

    def renewer(self) -> Renewer:
        """See `Transport.renewer`."""
        self._check()
        return RedisRenewer(self._door, self._keys, self._check_process)
