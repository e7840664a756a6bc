"""The doorbell: one channel, one connection in each process, and who waits for what it says.  Never the truth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence, Set

from redis.exceptions import RedisError

from ...errors import Closed, TransportError
from .door import Connection, Door, packed
from .line import Command
from .office import Office
from .talk import Talk

__all__ = ["Bell"]

_BACKOFF = (0.1, 2.0)


class _Caller:
    __slots__ = ("heard", "names", "rung")

    def __init__(self, names: frozenset[str], rung: asyncio.Future[None]) -> None:
        self.names = names
        self.rung = rung
        self.heard: set[str] = set()


class _Ear:
    """One connection on which something may be said at any time."""

    def __init__(self, connection: Connection, hear: Callable[[object], None]) -> None:
        self._tell = hear
        self._heard = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._talk = Talk(connection, hear=self._hear, ended=self._end)

    def ask(self, commands: Sequence[Command]) -> None:
        self._talk.write(b"".join(map(packed, commands)))

    def _hear(self, reply: object) -> None:
        self._heard = True
        if isinstance(reply, RedisError):
            raise reply
        self._tell(reply)

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    async def heard_within(self, patience: float) -> None:
        """Return when something was said.  A silent server is asked whether it is there: a dead network says nothing.

        Raises:
            OSError: when it is not there.
            RedisError: when it refuses.
        """
        for last in (False, True):
            self._heard = False
            await asyncio.wait([self._ended], timeout=patience)
            if self._ended.done():
                return self._ended.result()
            if self._heard:
                return None
            if not last:
                self.ask([("PING",)])
        raise TimeoutError("it has nothing to say")

    async def close(self) -> None:
        await self._talk.close()
        if self._ended.done():
            self._ended.exception()  # it was told, or there is nobody left to tell


class Bell:
    """Listens from the first `wait` on."""

    def __init__(self, door: Door, office: Office) -> None:
        self._door = door
        self._office = office
        self._callers: list[_Caller] = []
        self._missed: set[str] = set()
        self._missed_any = False
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._names: frozenset[str] = frozenset()

    async def wait(self, names: Collection[str], timeout: float) -> Set[str]:
        """See `Transport.wait`."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._listen())
        wanted = frozenset(names)
        self._names |= wanted
        heard = wanted if self._missed_any else self._missed & wanted
        self._missed_any = False
        self._missed -= heard
        if heard or not wanted:
            return heard
        loop = asyncio.get_running_loop()
        caller = _Caller(wanted, loop.create_future())
        self._callers.append(caller)
        alarm = loop.call_later(timeout, _ring, caller)
        try:
            await caller.rung
        finally:
            alarm.cancel()
            self._callers.remove(caller)
        if self._closed:
            raise Closed(f"the transport of {self._door} was closed")
        return caller.heard

    def ring(self, names: Collection[str]) -> None:
        """These may have work."""
        left = set(names)
        for caller in self._callers:
            heard = caller.names.intersection(names)
            if heard:
                caller.heard |= heard
                left -= heard
                _ring(caller)
        self._missed |= left

    def _ring_all(self) -> None:
        """Whom it is for is not known: everybody looks."""
        self._missed_any = not self._callers
        for caller in self._callers:
            caller.heard |= caller.names
            _ring(caller)

    async def _listen(self) -> None:
        await self._attend(self._door, [("SUBSCRIBE", self._office.keys.bell)])

    async def _attend(self, door: Door, subscribing: Sequence[Command]) -> None:
        """Hear what is said on a connection of its own, and on another one when that breaks."""
        pause = 0.0
        while True:
            try:
                ear = _Ear(await door.connect(), self._hear)
                try:
                    ear.ask(subscribing)
                    while True:
                        await ear.heard_within(door.patience)
                        pause = 0.0
                finally:
                    await ear.close()
            except (RedisError, OSError, TransportError):
                pause = min(max(2 * pause, _BACKOFF[0]), _BACKOFF[1])
            await asyncio.sleep(pause)

    def _hear(self, reply: object) -> None:
        match reply:
            case [b"message", _, bytes(message)]:
                topic, _, number = message.decode("utf-8", "replace").partition("/")
                names = self._named(topic, number)
                if names:
                    self.ring(names)
                    return
            case [b"pong", *_]:
                return
            case _:  # listening begins: what was rung before was not heard
                pass
        self._ring_all()

    def _named(self, topic: str, number: str) -> Collection[str]:
        """Whom a message is for; nobody when the registry, as it was last read, does not say."""
        registry = self._office.last
        if registry is None:
            return ()
        if number.isdigit():
            record = registry.records.get(int(number))
            return () if record is None else (record.name,)
        return registry.at(topic) if topic in registry.names else ()

    async def close(self) -> None:
        """Stop listening, and tell whoever waits."""
        self._closed = True
        for caller in self._callers:
            _ring(caller)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _ring(caller: _Caller) -> None:
    if not caller.rung.done():
        caller.rung.set_result(None)
