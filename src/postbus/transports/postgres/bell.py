"""The doorbell: rung here at once and elsewhere by NOTIFY, after the commit and by connections of our own.

Never the truth.  One connection listens, from the first `wait` on.  A single event's append carries a NOTIFY behind its
commit; of others at most one is under way, and what is rung meanwhile leaves with the next.  While somebody waits, the
tables are looked at as well: once a second, for what is committed by connections that nobody rings for; without LISTEN
twenty times a second while there is work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator, Set

import psycopg
from psycopg import AsyncConnection

from ...errors import Closed, TransportError
from .line import Door, Line, Row
from .routing import Registry
from .schema import Tables

__all__ = ["Bell"]

_BACKOFF = (0.1, 2.0)
# Longer payloads are refused by the server: then everybody looks.
_PAYLOAD = 7000
# The listening connection is asked whether it lives, as often as this.
_QUIET = 30.0
# Seconds between looks at the tables; each one that finds nothing makes the next one later.
_SOON, _LATE, _SLOWER = 0.05, 1.0, 1.5
_LOOK = """
SELECT s.name FROM postbus.subscription s WHERE s.name = ANY (%s) AND NOT s.paused AND (
    EXISTS (SELECT FROM postbus.delivery d WHERE d.subscription = s.id AND d.state = 1)
    OR EXISTS (SELECT FROM postbus.delivery d WHERE d.subscription = s.id AND d.state = 0)
    OR EXISTS (
        SELECT FROM postbus.delivery d WHERE d.subscription = s.id AND d.state = 3 AND d.due <= clock_timestamp()
    )
)
"""


class _Caller:
    __slots__ = ("heard", "names", "rung")

    def __init__(self, names: frozenset[str], rung: asyncio.Future[None]) -> None:
        self.names = names
        self.rung = rung
        self.heard: set[str] = set()


class Bell:
    """Who waits, and what they are told."""

    def __init__(self, door: Door, line: Line, tables: Tables, registry: Registry, *, listens: bool) -> None:
        self._door = door
        self._line = line
        self._registry = registry
        self._listens = listens
        self._channel = tables.channel
        self._look_sql = tables(_LOOK)
        self._looking: asyncio.Task[None] | None = None
        self._callers: list[_Caller] = []
        self._missed: set[str] = set()
        self._missed_any = False
        self._to_tell: set[int] = set()
        self._listening: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._carried = False
        self._backend = 0
        self._closed = False

    async def wait(self, names: Collection[str], timeout: float) -> Set[str]:
        """See `Transport.wait`."""
        if self._listening is None and self._listens:
            self._listening = asyncio.get_running_loop().create_task(self._listen())
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())
        wanted = frozenset(names)
        heard = wanted if self._missed_any else self._missed & wanted
        self._missed_any = False
        self._missed -= heard
        if heard or not wanted:
            return heard
        loop = asyncio.get_running_loop()
        caller = _Caller(wanted, loop.create_future())
        self._callers.append(caller)
        alarm = loop.call_later(timeout, _wake, caller)
        try:
            await caller.rung
        finally:
            alarm.cancel()
            self._callers.remove(caller)
        if self._closed:
            raise Closed(f"the transport of {self._door} was closed")
        return caller.heard

    # -- rung

    def ring(self, ids: Collection[int]) -> None:
        """These subscriptions may have work: tell those who wait here, and the other processes."""
        if not ids or self._closed:
            return
        self.ring_here(ids)
        if self._listens:
            self._to_tell.update(ids)
            if self._telling is None:
                self._telling = asyncio.get_running_loop().create_task(self._tell())

    @contextlib.contextmanager
    def carried(self, ids: Collection[int]) -> Iterator[tuple[str, str] | None]:
        """The channel and payload of a NOTIFY for these, for a statement that sends it behind its own commit.

        None where nobody listens, or another one is under way.
        """
        if not ids or not self._listens or self._closed or self._carried or self._telling is not None:
            yield None
            return
        self._carried = True
        try:
            yield self._channel, self._payload(ids)
        finally:
            self._carried = False

    def ring_here(self, ids: Collection[int]) -> None:
        """These may have work: tell those who wait in this process."""
        routing = self._registry.last
        names = set() if routing is None else routing.names(list(ids))
        if len(names) == len(ids):
            self._ring_names(names)
        else:
            self._ring_all()

    def _ring_names(self, names: set[str]) -> None:
        left = set(names)
        for caller in self._callers:
            heard = caller.names & names
            if heard:
                caller.heard |= heard
                left -= heard
                _wake(caller)
        self._missed |= left

    def _ring_all(self) -> None:
        """Whom it is for is not known: everybody looks."""
        self._missed_any = not self._callers
        for caller in self._callers:
            caller.heard |= caller.names
            _wake(caller)

    # -- the tables

    async def _look(self) -> None:
        """For those who wait: which of their subscriptions have work."""
        pause = least = _LATE if self._listens else _SOON
        while True:
            await asyncio.sleep(pause)
            try:
                found = await self._look_once()
            except TransportError:
                pause = _LATE
            else:
                pause = least if found else min(pause * _SLOWER, _LATE)

    async def _look_once(self) -> bool:
        """Ring for those who have work; whether there were any."""
        names = {name for caller in self._callers for name in caller.names}
        if not names:
            return False
        found = {name for (name,) in await self._line.ask(self._look_sql, (list(names),))}
        self._ring_names(found)
        return bool(found)

    # -- to and from other processes

    async def _tell(self) -> None:
        # Nothing is lost with a NOTIFY that a crash takes along, so its commit need not wait for the disk.
        notify = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
        while self._to_tell:
            ids, self._to_tell = self._to_tell, set()
            with contextlib.suppress(TransportError, Closed):  # those who listen poll as well
                await self._line.ask(notify, (self._channel, self._payload(ids)))
        self._telling = None

    def _payload(self, ids: Collection[int]) -> str:
        routing = self._registry.last
        payload = f"{self._backend}:{routing.revision if routing else 0}:{','.join(map(str, ids))}"
        return payload if len(payload) < _PAYLOAD else "::"

    async def _listen(self) -> None:
        pause = 0.0
        while True:
            try:
                connection = await self._door.connection()
            except TransportError:
                pause = min(max(2 * pause, _BACKOFF[0]), _BACKOFF[1])
                await asyncio.sleep(pause)
                continue
            try:
                await connection.execute(f'LISTEN "{self._channel}"'.encode())
                self._backend = connection.info.backend_pid
                pause = 0.0
                with contextlib.suppress(TransportError, Closed):  # there will be other looks
                    await self._look_once()  # what was rung before was not heard
                await self._hear(connection)
            except (psycopg.Error, OSError):
                pause = min(max(2 * pause, _BACKOFF[0]), _BACKOFF[1])
            finally:
                await connection.close()
            await asyncio.sleep(pause)

    async def _hear(self, connection: AsyncConnection[Row]) -> None:
        while True:
            async for message in connection.notifies(timeout=_QUIET):
                self._heard(message.payload)
            async with asyncio.timeout(self._door.patience):
                await connection.execute(b"SELECT 1")

    def _heard(self, payload: str) -> None:
        sender, _, rest = payload.partition(":")
        revision, _, ids = rest.partition(":")
        if sender == str(self._backend):
            return  # it was rung here already
        routing = self._registry.last
        if routing is None or revision != str(routing.revision) or not ids:
            self._ring_all()
        else:
            self.ring_here([int(id_) for id_ in ids.split(",")])

    async def close(self) -> None:
        """Stop listening, and tell whoever waits."""
        self._closed = True
        for caller in self._callers:
            _wake(caller)
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)
        for task in (self._listening, self._looking):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def _wake(caller: _Caller) -> None:
    if not caller.rung.done():
        caller.rung.set_result(None)
