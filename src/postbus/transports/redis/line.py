"""The connection: many callers share one, their requests leave in one write, and each has its own answers.

What was sent and lost its answer is told from what never left.  Nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

from redis.exceptions import NoScriptError, RedisError, ResponseError

from ...errors import Closed, TransportError
from .door import Connection, Door, packed
from .scripts import Script

__all__ = ["AnswerLost", "Command", "Line", "Unreachable", "said"]

Command: TypeAlias = tuple[Any, ...]


class Unreachable(TransportError):
    """Nothing was sent."""


class AnswerLost(TransportError):
    """It was sent, and may have been done."""


class _Call:
    __slots__ = ("count", "done", "replies")

    def __init__(self, count: int, done: asyncio.Future[list[Any]]) -> None:
        self.count = count
        self.done = done
        self.replies: list[Any] = []


class _Link:
    """One connection while it lasts."""

    def __init__(self, connection: Connection, place: str) -> None:
        self._connection = connection
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._calls: deque[_Call] = deque()
        self._outbox: list[bytes] = []
        self._ring = asyncio.Event()
        self.alive = True
        self._tasks = [self._loop.create_task(self._write()), self._loop.create_task(self._read())]

    def ask(self, commands: Sequence[Command]) -> asyncio.Future[list[Any]]:
        call = _Call(len(commands), self._loop.create_future())
        for command in commands:
            self._outbox += packed(command)
        self._calls.append(call)
        self._ring.set()
        return call.done

    async def _write(self) -> None:
        try:
            while True:
                await self._ring.wait()
                self._ring.clear()
                packed, self._outbox = self._outbox, []
                await self._connection.send_packed_command(packed, check_health=False)
        except (RedisError, OSError) as error:
            self._break(error)

    async def _read(self) -> None:
        try:
            while True:
                try:
                    reply = await self._connection.read_response(disable_decoding=True, timeout=math.inf)
                except ResponseError as error:
                    reply = error
                call = self._calls[0]
                call.replies.append(reply)
                if len(call.replies) == call.count:
                    self._calls.popleft()
                    if not call.done.done():
                        call.done.set_result(call.replies)
        except (RedisError, OSError, IndexError) as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        self.alive = False
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        lost, self._calls = self._calls, deque()
        for call in lost:
            if not call.done.done():
                call.done.set_exception(AnswerLost(f"the connection to {self._place} broke: {error}"))

    async def close(self, why: str) -> None:
        """Let go; whoever waits loses the answer."""
        if self.alive:
            self._break(ConnectionError(why))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.disconnect(nowait=True)


class Line:
    """The process's connection, made when it is needed and again when it broke."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def ask(self, *commands: Command, patience: float | None = None) -> list[Any]:
        """Send commands in one write; return one reply each, of which some may be errors.

        Raises:
            Unreachable: when nothing was sent.
            AnswerLost: when they were sent, and the connection broke or stayed silent.
            Closed: after `close`.
        """
        patience = patience or self.door.patience
        try:
            async with asyncio.timeout(patience):
                link = self._link if self._link is not None and self._link.alive else await self._connect()
        except TimeoutError:
            raise Unreachable(f"{self.door} could not be reached within {patience:g} s") from None
        done = link.ask(commands)
        try:
            async with asyncio.timeout(patience):
                return await done
        except TimeoutError:
            await link.close("it stayed silent")
            raise AnswerLost(f"{self.door} did not answer within {patience:g} s") from None

    async def one(self, *command: Any) -> Any:
        """The reply of one command."""
        return said((await self.ask(command))[0], self.door)

    async def run(self, script: Script, keys: Sequence[Any], args: Sequence[Any], patience: float | None = None) -> Any:
        """The reply of one script; `ResponseError` where it is one."""
        return (await self.run_each((script, keys, args), patience=patience))[0]

    async def run_each(
        self,
        *scripts: tuple[Script, Sequence[Any], Sequence[Any]],
        before: Sequence[Command] = (),
        patience: float | None = None,
    ) -> list[Any]:
        """The replies of commands and then of scripts, of which some may be errors.

        A server that does not know a script has not run it, so it is asked again with the text.
        """
        commands = [_call(script, keys, args) for script, keys, args in scripts]
        replies = await self.ask(*before, *commands, patience=patience)
        offset = len(before)
        unknown = [n for n in range(len(scripts)) if isinstance(replies[offset + n], NoScriptError)]
        if unknown:
            loads = {scripts[n][0].sha: ("SCRIPT", "LOAD", scripts[n][0].text) for n in unknown}
            again = await self.ask(*loads.values(), *(commands[n] for n in unknown), patience=patience)
            for n, reply in zip(unknown, again[len(loads) :], strict=True):
                replies[offset + n] = reply
        return replies

    async def _connect(self) -> _Link:
        async with self._connecting:
            if self._closed:
                raise Closed(f"the transport of {self.door} is closed")
            if self._link is not None and self._link.alive:
                return self._link
            if self._link is not None:
                await self._link.close("it broke")
                self._link = None
            connection = self.door.connection()
            try:
                await connection.connect()
            except (RedisError, OSError) as error:
                await connection.disconnect(nowait=True)
                raise Unreachable(f"{self.door} cannot be reached: {error}") from error
            self._link = _Link(connection, str(self.door))
            return self._link

    async def close(self) -> None:
        """Hang up."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            await link.close("it was closed")


def _call(script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Command:
    return ("EVALSHA", script.sha, len(keys), *keys, *args)


def said(reply: Any, place: object) -> Any:
    """The reply, unless it is an error.

    Raises:
        TransportError: with the server's words.
    """
    if isinstance(reply, ResponseError):
        raise TransportError(f"{place} refused: {reply}") from reply
    return reply
