"""A line to many servers: each request goes to the one that has its key, and follows where that has moved."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

from ...clock import Clock
from ...errors import Closed, TransportError
from .door import Entrance
from .line import Command, Line, said
from .scripts import Script
from .slots import PAUSE, Slots, slot_of

__all__ = ["Call", "Cluster"]

Call: TypeAlias = tuple[Script, Sequence[Any], Sequence[Any]]

# Commands without a key: they go where the next one with a key goes, else where the one before went.
_KEYLESS = ("COMMAND", "CONFIG", "INFO", "PING", "SCRIPT", "TIME", "WAIT", "WAITAOF")


class Cluster(Line):
    """See `Line`.  What goes to several servers goes at once, and keeps its order at each of them."""

    spread = True

    def __init__(self, slots: Slots, clock: Clock) -> None:
        super().__init__(slots, clock)
        self._slots = slots
        self._clock = clock
        self._lines: dict[Entrance, Line] = {}
        self._looking = asyncio.Lock()

    async def open(self) -> None:
        """Find out who has what, and how bells ring here."""
        await self._slots.look()
        (about,) = await self.ask(("COMMAND", "INFO", "SPUBLISH"))
        self._slots.sharded = bool(said(about, self.door)[0])

    async def ask(self, *commands: Command, patience: float | None = None) -> list[Any]:
        """See `Line.ask`.  Of several servers the first that fails is heard."""
        replies = await self._each(list(commands), patience)
        for reply in replies:
            if isinstance(reply, TransportError):
                raise reply
        return replies

    async def run(
        self,
        script: Script,
        keys: Sequence[Any],
        args: Sequence[Any],
        *,
        before: Sequence[Command] = (),
        patience: float | None = None,
    ) -> Any:
        """See `Line.run`."""
        *_, reply = await self.run_each((script, keys, args), before=before, patience=patience)
        if isinstance(reply, TransportError):
            raise reply
        return reply

    async def run_each(
        self, *scripts: Call, before: Sequence[Command] = (), patience: float | None = None
    ) -> list[Any]:
        """See `Line.run_each`.  Where one server fails, its replies are the error, and the others' stand."""
        fitted = ((*self._slots.fitted(script, keys), args) for script, keys, args in scripts)
        return await self._each([*before, *fitted], patience)

    def fit(self, script: Script, keys: Sequence[Any]) -> tuple[Script, Sequence[Any]]:
        """See `Line.fit`."""
        return super().fit(*self._slots.fitted(script, keys))

    async def _each(self, requests: Sequence[Command | Call], patience: float | None) -> list[Any]:
        if self._closed:
            raise Closed(f"the transport of {self.door} is closed")
        loop = asyncio.get_running_loop()
        until = loop.time() + (patience or self.door.patience)
        followed = _followed(requests)
        replies: list[Any] = [None] * len(requests)
        rest: Sequence[int] = range(len(requests))
        while rest:
            if self._slots.stale:
                await self._look()
            groups: dict[Entrance, list[int]] = {}
            for place in rest:
                groups.setdefault(self._slots.owner(_slot(requests[followed[place]])), []).append(place)
            left = max(0.01, until - loop.time())
            found = await asyncio.gather(
                *(self._send(server, [requests[n] for n in places], left) for server, places in groups.items())
            )
            for places, answers in zip(groups.values(), found, strict=True):
                for place, answer in zip(places, answers, strict=True):
                    replies[place] = answer
            moved = {place for place in rest if self._slots.follow(replies[place])}
            rest = [place for place in rest if place in moved or followed[place] in moved]
            if rest:
                if loop.time() + PAUSE > until:
                    break
                await asyncio.sleep(PAUSE)
        return replies

    async def _send(self, server: Entrance, requests: Sequence[Any], patience: float) -> list[Any]:
        line = self._lines.get(server)
        if line is None:
            line = self._lines[server] = Line(server, self._clock)
        commands = [request for request in requests if not isinstance(request[0], Script)]
        scripts = [request for request in requests if isinstance(request[0], Script)]
        try:
            return await line.run_each(*scripts, before=commands, patience=patience)
        except TransportError as error:
            self._slots.stale = True
            return [error] * len(requests)

    async def _look(self) -> None:
        """Once for all who wait for it."""
        async with self._looking:
            if self._slots.stale:
                await self._slots.look()
                known = set(self._slots.servers())
                for server in set(self._lines) - known:
                    await self._lines.pop(server).close()

    async def close(self) -> None:
        """Hang up."""
        await super().close()
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.close()


def _followed(requests: Sequence[Command | Call]) -> list[int]:
    """For each request the one that it goes with: itself, unless it has no key."""
    keyed = [place for place, request in enumerate(requests) if _key(request) is not None]
    found = []
    for place in range(len(requests)):
        behind = next((each for each in keyed if each >= place), None)
        found.append(behind if behind is not None else keyed[-1] if keyed else place)
    return found


def _slot(request: Command | Call) -> int:
    key = _key(request)
    return 0 if key is None else slot_of(key)


def _key(request: Command | Call) -> Any:
    if isinstance(request[0], Script):
        return request[1][0]
    match request[0]:
        case "XREADGROUP":
            return request[request.index("STREAMS") + 1]
        case "EVALSHA":
            return request[3] if request[2] else None
        case "XINFO" | "XGROUP":
            return request[2]
        case name:
            return None if name in _KEYLESS else request[1]
