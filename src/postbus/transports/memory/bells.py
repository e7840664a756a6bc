"""Who waits in a memory transport, for work or for room, and how they are woken.  Takes no lock."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Collection, Set

__all__ = ["Bell", "Caller", "Crowd", "Doorbell"]


class Bell:
    """Wakes one coroutine, once, from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._rung = self._loop.create_future()

    def ring(self) -> None:
        """Wake it, or let its coming `wait` return at once."""
        if threading.get_ident() == self._thread:
            self._set()
            return
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:  # its loop was closed under it: nobody waits there any more
            return

    def _set(self) -> None:
        if not self._rung.done():
            self._rung.set_result(None)

    async def wait(self, timeout: float) -> None:
        """Wait for the ring, or for so many seconds."""
        alarm = self._loop.call_later(timeout, self._set)
        try:
            await self._rung
        finally:
            alarm.cancel()


class Caller:
    """Somebody who waits: for word of these subscriptions, or for room for so many events."""

    __slots__ = ("heard", "names", "need", "ring")

    def __init__(self, ring: Callable[[], None], *, names: Collection[str] = (), need: int = 0) -> None:
        self.ring = ring
        self.names = frozenset(names)
        self.heard: set[str] = set()
        self.need = need


class Doorbell:
    """Those who wait for work."""

    def __init__(self) -> None:
        self._callers: list[Caller] = []

    def enter(self, caller: Caller) -> None:
        """Wait from now on."""
        self._callers.append(caller)

    def leave(self, caller: Caller) -> None:
        """Wait no longer."""
        self._callers.remove(caller)

    def ring(self, names: Set[str]) -> None:
        """Wake whoever waits for one of these."""
        for caller in self._callers:
            heard = names & caller.names
            if heard:
                caller.heard |= heard
                caller.ring()

    def ring_out(self) -> None:
        """Wake everybody: there is nothing more to wait for."""
        for caller in self._callers:
            caller.ring()


class Crowd:
    """Those who wait for room, first come, first woken.  To be woken is to be told to try, not to have it."""

    def __init__(self) -> None:
        self._callers: deque[Caller] = deque()

    def __bool__(self) -> bool:
        return bool(self._callers)

    def enter(self, caller: Caller) -> None:
        """Wait from now on."""
        self._callers.append(caller)

    def leave(self, caller: Caller, room: int) -> None:
        """Wait no longer.  One who was woken and goes away instead leaves the room to the next."""
        if caller in self._callers:
            self._callers.remove(caller)
        else:
            self.offer(room)

    def offer(self, room: int) -> None:
        """Wake as many as this room is enough for."""
        while room > 0 and self._callers:
            caller = self._callers.popleft()
            room -= caller.need
            caller.ring()
