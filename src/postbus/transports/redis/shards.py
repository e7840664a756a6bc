"""The doorbell of a cluster: each topic rings in its own shard, and one connection hears all of a server's shards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping, Set

from ...errors import TransportError
from .bell import Bell
from .door import Entrance
from .office import Office
from .registry import Registry
from .slots import Slots, slot_of

__all__ = ["ShardedBell"]

# Seconds until a new topic, or a slot that has moved, is listened to: until then, and always, polling finds it.
_LOOK = 0.5


class ShardedBell(Bell):
    """See `Bell`.  Where servers know no shards, it is one."""

    def __init__(self, slots: Slots, office: Office) -> None:
        super().__init__(slots, office)
        self._slots = slots
        self._seen: Registry | None = None
        self._outdated = False
        self._changed = asyncio.Event()

    async def wait(self, names: Collection[str], timeout: float) -> Set[str]:
        """See `Transport.wait`."""
        if not self._names.issuperset(names) or self._office.last is not self._seen:
            self._changed.set()
        return await super().wait(names, timeout)

    async def _listen(self) -> None:
        if not self._slots.sharded:
            await super()._listen()
        ears: dict[tuple[Entrance, frozenset[str]], asyncio.Task[None]] = {}
        try:
            while True:
                await self._catch_up()
                wanted = set(self._channels().items())
                for gone in set(ears) - wanted:
                    ears.pop(gone).cancel()
                for server, channels in wanted - set(ears):
                    # One by one: a command may name channels of one slot only.
                    subscribing = [("SSUBSCRIBE", channel) for channel in sorted(channels)]
                    ear = asyncio.get_running_loop().create_task(self._attend(server, subscribing))
                    ears[server, channels] = ear
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._changed.wait()
        finally:
            for ear in ears.values():
                ear.cancel()
            await asyncio.gather(*ears.values(), return_exceptions=True)

    async def _catch_up(self) -> None:
        """Read the registry, when it is said to be another."""
        if self._outdated:
            with contextlib.suppress(TransportError):
                self._outdated = False
                await self._office.refresh()
                self._ring_all()  # what rang in a new topic meanwhile was not heard

    def _channels(self) -> Mapping[Entrance, frozenset[str]]:
        """What to listen to, by server: the topics of all subscriptions that were ever waited for."""
        registry = self._seen = self._office.last
        if registry is None:
            return {}
        ours = self._office.keys.bell
        found: dict[Entrance, set[str]] = {self._slots.owner(slot_of(ours)): {ours}}
        records = [registry.by_name[name] for name in self._names if name in registry.by_name]
        for topic in {topic for record in records for topic in registry.topics(record)}:
            channel = f"{self._office.keys.tag(topic)}:bell"
            found.setdefault(self._slots.owner(slot_of(channel)), set()).add(channel)
        return {server: frozenset(channels) for server, channels in found.items()}

    def _hear(self, reply: object) -> None:
        match reply:
            case [b"smessage", _, b"registry"]:
                self._outdated = True
                self._changed.set()
            case [b"smessage", channel, message]:
                super()._hear([b"message", channel, message])
            case [b"sunsubscribe", *_]:
                self._slots.stale = True
                self._ring_all()
                raise ConnectionError("a shard has moved")
            case _:
                super()._hear(reply)
