"""The Redis transport itself: open and closed, and what becomes of calls that are cancelled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Coroutine, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from ...address import Settings
from ...delivery import Delivery, Outcome, Release
from ...errors import Closed, ConfigError, ForkError, PostbusError
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
from .claiming import Claiming
from .desk import Desk
from .door import Door
from .examining import examined, weaknesses
from .following import Following
from .given import Given
from .line import Line
from .office import Office
from .reading import Read
from .recording import Memoirs
from .registry import Keys
from .renewing import RedisRenewer
from .replicas import Replicas
from .scripts import APPEND
from .settling import Pair, Settling
from .site import bell_at, hotline_to, line_to
from .trimming import Trimming

__all__ = ["RedisTransport", "Terms"]

_RELEASE = Release()


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a server is used.

    Attributes:
        replicas: how many must have what is accepted.
        strict: not at all when it may lose what it accepted.
    """

    replicas: Replicas = field(default_factory=Replicas)
    strict: bool = False


_TERMS = Terms()


class RedisTransport(Desk):
    """See `connect`."""

    def __init__(self, door: Door, settings: Settings, terms: Terms = _TERMS) -> None:
        super().__init__()
        self._door = door
        self._terms = terms
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
        line = line_to(self._door, self._settings.clock)
        try:
            await line.open()
            office = Office(line, self._keys, self._settings.retain)
            await self._keep_terms(line, office)
        except BaseException:
            await line.close()
            raise
        self._line = line
        self._office = office
        self._trimming = Trimming(line, self._keys, self._settings.retain)
        self._settling = Settling(line, self._keys, self._trimming.note)
        # Waiting for replicas holds up whatever else is asked on that connection.
        self._appends = line_to(self._door, self._settings.clock) if self._terms.replicas else line
        self._appending = Appending(self._appends, self._office, self._settings, self._terms.replicas)
        given = Given(line, self._keys)
        self._claiming = Claiming(line, self._office, self._settling, given)
        self._following = Following(line, self._settling, given)
        self._settling.moved = self._claiming.reading.look_closely
        self._memoirs = Memoirs(line, self._keys, self._settings.clock)
        self._bell = bell_at(self._door, self._office)

    async def close(self) -> None:
        """Hang up."""
        line, self._line = self._line, None
        if line is None or self._pid != os.getpid():
            return
        await self._trimming.close()
        await self._bell.close()
        while ending := tuple(self._background):
            await asyncio.gather(*ending, return_exceptions=True)
            self._background.difference_update(ending)  # from 3.12 on, waiting for what has ended lets no callback run
        await self._appends.close()
        await line.close()

    async def _keep_terms(self, line: Line, office: Office) -> None:
        """Raise unless the server can do what is asked of it."""
        if self._terms.replicas:  # else the first append would wait for nothing before it is sent again
            await line.one("SCRIPT", "LOAD", APPEND.text)
        if self._terms.replicas.disk:
            (reply,) = await line.ask(("WAITAOF", 1, 0, 1))
            if isinstance(reply, ResponseError):
                raise ConfigError(f"wait_disk=true of {self._door}: the server cannot wait for its disk: {reply}")
        if not self._terms.strict:
            return
        weak = weaknesses(await examined(line, self._keys, await office.refresh()))
        if weak:
            reasons = "; ".join(f"{one.text} ({one.advice})" if one.advice else one.text for one in weak)
            raise ConfigError(f"strict=true of {self._door}: it may lose what it accepted: {reasons}")

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
        for log in {item.envelope.log for item in items}:
            self._trimming.note(log)
        return await self._appending.append(items)

    async def wait(self, subscriptions: Collection[str], timeout: float) -> Set[str]:
        """See `Transport.wait`."""
        self._check()
        return await self._bell.wait(subscriptions, timeout)

    async def claim(self, subscription: str, *, owner: str, limit: int, lease: float, alone: bool = False) -> Claimed:
        """See `Transport.claim`."""
        self._check()
        read: Read | None = None
        if not alone:
            asked = self._claiming.reading.read_now(subscription, owner, limit, lease, self._put_back)
            if asked is not None:
                read = await asked
                claimed = read.all_there_is(limit)
                if claimed is not None:
                    return claimed
        claiming = self._spawn(self._claiming.claim(subscription, owner, limit, lease, alone=alone, read=read))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            self._spawn(self._hand_back(claiming))
            raise

    def _put_back(self, read: Read) -> None:
        """Nobody waits for what this read gave."""
        self._spawn(self._let_go([*((delivery, _RELEASE) for delivery in read.found), *read.moved]))

    async def _hand_back(self, claiming: asyncio.Task[Claimed]) -> None:
        """Nobody waits for what this claim gives."""
        try:
            claimed = await claiming
        except PostbusError:  # it gave nothing, or leases end by themselves
            return
        await self._let_go([(delivery, _RELEASE) for delivery in claimed.deliveries])

    async def _let_go(self, pairs: Sequence[Pair]) -> None:
        try:
            await self._settling.settle(pairs)
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

    async def settle_and_follow(
        self, settlements: Sequence[tuple[Delivery, Outcome]], *, owner: str, lease: float
    ) -> tuple[Sequence[Settle], Sequence[Delivery]]:
        """See `Following.settle_and_follow`."""
        self._check()
        return await self._following.settle(settlements, owner, lease)

    def renewer(self) -> Renewer:
        """See `Transport.renewer`."""
        self._check()
        return RedisRenewer(hotline_to(self._door, self._settings.clock), self._keys, self._check_process)
