"""The doorbell: rung here at once and elsewhere by NOTIFY, after the commit and by connections of our own.

Never the truth.  One connection listens, from the first `wait` on; at most one NOTIFY is under way, and what is rung
meanwhile leaves with the next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Set

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
        self._callers: list[_Caller] = []
        self._missed: set[str] = set()
        self._missed_any = False
        self._to_tell: set[int] = set()
        self._listening: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._backend = 0
        self._closed = False

    async def wait(self, names: Collection[str], timeout: float) -> Set[str]:
        """See `Transport.wait`."""
        if self._listening is None and self._listens:
            self._listening = asyncio.get_running_loop().create_task(self._listen())
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
        self._ring_here(ids)
        if self._listens:
            self._to_tell.update(ids)
            if self._telling is None:
                self._telling = asyncio.get_running_loop().create_task(self._tell())

    def _ring_here(self, ids: Collection[int]) -> None:
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

    # -- to and from other processes

    async def _tell(self) -> None:
        # Nothing is lost with a NOTIFY that a crash takes along, so its commit need not wait for the disk.
        notify = "SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
        while self._to_tell:
            ids, self._to_tell = self._to_tell, set()
            routing = self._registry.last
            payload = f"{self._backend}:{routing.revision if routing else 0}:{','.join(map(str, ids))}"
            with contextlib.suppress(TransportError, Closed):  # those who listen poll as well
                await self._line.ask(notify, (self._channel, payload if len(payload) < _PAYLOAD else "::"))
        self._telling = None

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
                self._ring_all()  # what was rung before was not heard
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
            self._ring_here([int(id_) for id_ in ids.split(",")])

    async def close(self) -> None:
        """Stop listening, and tell whoever waits."""
        self._closed = True
        for caller in self._callers:
            _wake(caller)
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)


def _wake(caller: _Caller) -> None:
    if not caller.rung.done():
        caller.rung.set_result(None)
