"""The connection: many callers share one, their requests leave in one write, and each has its own answers.

What was sent and lost its answer is told from what never left.  Nothing is sent twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.exceptions import AuthenticationError, NoScriptError, ResponseError

from ...clock import Clock
from ...errors import Closed, TransportError
from .door import Connection, Door, Unreachable, demoted, packed, unwelcome
from .scripts import Script, timed_by
from .talk import Talk

__all__ = ["AnswerLost", "Command", "Line", "Orphan", "said"]

Command: TypeAlias = tuple[Any, ...]
Orphan: TypeAlias = Callable[[list[Any] | None], None]


class AnswerLost(TransportError):
    """It was sent, and may have been done."""


class _Call:
    __slots__ = ("count", "done", "orphan", "replies", "until")

    def __init__(self, count: int, done: asyncio.Future[list[Any]], until: float, orphan: Orphan | None) -> None:
        self.count = count
        self.done = done
        self.until = until
        self.orphan = orphan
        self.replies: list[Any] = []


class _Link:
    """One connection while it lasts."""

    def __init__(self, connection: Connection, place: str) -> None:
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._calls: deque[_Call] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._watched = 0.0  # until when
        self.alive = True
        self._talk = Talk(connection, hear=self._hear, ended=self._break)

    def ask(
        self, commands: Sequence[Command], patience: float, orphan: Orphan | None = None
    ) -> asyncio.Future[list[Any]]:
        words = packed(commands[0]) if len(commands) == 1 else b"".join(map(packed, commands))
        until = self._loop.time() + patience
        call = _Call(len(commands), self._loop.create_future(), until, orphan)
        self._calls.append(call)
        if self._watch is None or until < self._watched:
            self._watch_until(until)
        self._talk.write(words)
        return call.done

    def _hear(self, reply: Any) -> None:
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            raise reply  # it is about the connection
        try:
            call = self._calls[0]
        except IndexError:
            raise ConnectionError("it said more than it was asked") from None
        call.replies.append(reply)
        if len(call.replies) == call.count:
            self._calls.popleft()
            if not call.done.done():
                call.done.set_result(call.replies)
            elif call.orphan is not None:
                call.orphan(call.replies)
        if demoted(reply):
            raise ConnectionError("it is a replica now")

    # One timer for all that is under way: it is moved only when it has run out.

    def _watch_until(self, until: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watched = until
        self._watch = self._loop.call_at(until, self._look)

    def _look(self) -> None:
        """A call that has waited long enough: who says nothing for so long is taken for dead."""
        self._watch = None
        waiting = [call.until for call in self._calls if not call.done.done()]
        if not waiting:
            return
        first = min(waiting)
        if first <= self._loop.time():
            self._break(ConnectionError("no answer in time"))
        else:
            self._watch_until(first)

    def _break(self, error: Exception) -> None:
        self.alive = False
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        lost, self._calls = self._calls, deque()
        for call in lost:
            if not call.done.done():
                call.done.set_exception(self._meaning(error))
            elif call.orphan is not None:
                call.orphan(None)

    def _meaning(self, error: Exception) -> TransportError:
        if isinstance(error, AuthenticationError):  # it refuses whatever comes on this connection
            return unwelcome(error, self._place)
        return AnswerLost(f"the connection to {self._place} broke: {error}")

    async def close(self, why: str) -> None:
        """Let go; whoever waits loses the answer."""
        if self.alive:
            self._break(ConnectionError(why))
        await self._talk.close()


class Line:
    """The process's connection, made when it is needed and again when it broke.

    Attributes:
        spread: there are several servers, and each script call is about one topic.
    """

    spread = False

    def __init__(self, door: Door, clock: Clock) -> None:
        self.door = door
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        self._timed = timed_by(clock)

    async def open(self) -> None:
        """See that somebody answers."""
        await self.one("PING")

    async def ask(self, *commands: Command, patience: float | None = None) -> list[Any]:
        """Send commands in one write; return one reply each, of which some may be errors.

        Raises:
            Unreachable: when nothing was sent.
            AnswerLost: when they were sent, and the connection broke or stayed silent.
            Closed: after `close`.
        """
        patience = patience or self.door.patience
        link = self._link
        if link is None or not link.alive:
            try:
                async with asyncio.timeout(patience):
                    link = await self._connect()
            except TimeoutError:
                raise Unreachable(f"{self.door} could not be reached within {patience:g} s") from None
        return await link.ask(commands, patience)

    def asked(self, commands: Sequence[Command], orphan: Orphan) -> asyncio.Future[list[Any]] | None:
        """As `ask`, sent on the spot; None where no connection stands.  Whoever waits for it may be cancelled.

        Args:
            commands: what is sent.
            orphan: given the replies then, or None when they are lost.
        """
        link = self._link
        return link.ask(commands, self.door.patience, orphan) if link is not None and link.alive else None

    async def one(self, *command: Any) -> Any:
        """The reply of one command."""
        return said((await self.ask(command))[0], self.door)

    async def run(
        self,
        script: Script,
        keys: Sequence[Any],
        args: Sequence[Any],
        *,
        before: Sequence[Command] = (),
        patience: float | None = None,
    ) -> Any:
        """The reply of one script, sent behind commands whose replies nobody wants; `ResponseError` where it is one."""
        fitted, all_keys = self.fit(script, keys)
        *_, reply = await self.ask(*before, fitted.call(all_keys, args), patience=patience)
        if isinstance(reply, NoScriptError):
            (reply,) = await self.run_each((script, keys, args), patience=patience)
        return reply

    async def run_each(
        self,
        *scripts: tuple[Script, Sequence[Any], Sequence[Any]],
        before: Sequence[Command] = (),
        patience: float | None = None,
    ) -> list[Any]:
        """The replies of commands and then of scripts, of which some may be errors.

        A server that does not know a script has not run it, so it is asked again with the text.
        """
        scripts = tuple((*self.fit(script, keys), args) for script, keys, args in scripts)
        commands = [script.call(keys, args) for script, keys, args in scripts]
        replies = await self.ask(*before, *commands, patience=patience)
        offset = len(before)
        unknown = [n for n in range(len(scripts)) if isinstance(replies[offset + n], NoScriptError)]
        if unknown:
            loads = {scripts[n][0].sha: ("SCRIPT", "LOAD", scripts[n][0].text) for n in unknown}
            again = await self.ask(*loads.values(), *(commands[n] for n in unknown), patience=patience)
            for n, reply in zip(unknown, again[len(loads) :], strict=True):
                replies[offset + n] = reply
        return replies

    def fit(self, script: Script, keys: Sequence[Any]) -> tuple[Script, Sequence[Any]]:
        """A script and its keys as the server is to be given them."""
        return self._timed(script), keys

    async def _connect(self) -> _Link:
        async with self._connecting:
            if self._closed:
                raise Closed(f"the transport of {self.door} is closed")
            if self._link is not None and self._link.alive:
                return self._link
            if self._link is not None:
                await self._link.close("it broke")
                self._link = None
            self._link = _Link(await self.door.connect(), str(self.door))
            return self._link

    async def close(self) -> None:
        """Hang up."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            await link.close("it was closed")


def said(reply: Any, place: object) -> Any:
    """The reply, unless it is an error.

    Raises:
        TransportError: with the server's words.
    """
    if isinstance(reply, TransportError):
        raise reply
    if isinstance(reply, ResponseError):
        raise TransportError(f"{place} refused: {reply}") from reply
    return reply
