"""Tells workers which subscriptions may have work.  Knows who waits, and not who rings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Set

from ...errors import PostbusError

__all__ = ["Doorbell"]


class _Waiter:
    __slots__ = ("future", "loop", "names")

    def __init__(self, names: frozenset[str], loop: asyncio.AbstractEventLoop) -> None:
        self.names = names
        self.loop = loop
        self.future: asyncio.Future[frozenset[str]] = loop.create_future()


class Doorbell:
    """Rings once for each change, and remembers what rang while nobody waited.  A backlog by itself does not ring."""

    def __init__(self, wanted: Callable[[], None]) -> None:
        self._tell_wanted = wanted
        self._lock = threading.Lock()
        self._waiters: list[_Waiter] = []
        self._known: set[str] = set()
        self._rung: set[str] = set()
        self._failure: PostbusError | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiters)

    async def wait(self, names: Collection[str], timeout: float) -> Set[str]:
        """Wait until one of these may have got work since the last call, or for `timeout` seconds."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            wanted = frozenset(names)
            rung = wanted - self._known | wanted & self._rung
            if rung:
                self._known |= wanted
                self._rung -= rung
                return rung
            waiter = _Waiter(wanted, loop)
            self._waiters.append(waiter)
        self._tell_wanted()
        timer = loop.call_later(timeout, _give, waiter, frozenset())
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.future.done() and not waiter.future.cancelled():  # it rang, and nobody came to the door
                self.remember(waiter.future.result())
            raise
        finally:
            timer.cancel()
            self._forget(waiter)

    def ring(self, names: Iterable[str]) -> None:
        """These may have got work."""
        rung = frozenset(names)
        with self._lock:
            woken = [waiter for waiter in self._waiters if not rung.isdisjoint(waiter.names)]
            if woken:
                self._waiters = [waiter for waiter in self._waiters if rung.isdisjoint(waiter.names)]
            self._rung |= rung.difference(*(waiter.names for waiter in woken))
        for waiter in woken:
            self._tell(waiter, rung & waiter.names)

    def fail(self, error: PostbusError) -> None:
        """Raise this to whoever waits, and whoever will."""
        with self._lock:
            self._failure = error
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            try:
                waiter.loop.call_soon_threadsafe(_raise, waiter, error)
            except RuntimeError:  # that loop is closed
                continue

    # -- the waiters

    def _tell(self, waiter: _Waiter, rung: frozenset[str]) -> None:
        try:
            waiter.loop.call_soon_threadsafe(self._answer, waiter, rung)
        except RuntimeError:  # that loop is closed
            self.remember(rung)

    def _answer(self, waiter: _Waiter, rung: frozenset[str]) -> None:
        if waiter.future.done():  # it stopped waiting meanwhile: the next one hears it
            self.remember(rung)
        else:
            waiter.future.set_result(rung)

    def remember(self, names: Iterable[str]) -> None:
        """Ring for whoever waits next."""
        with self._lock:
            self._rung.update(names)

    def _forget(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)


def _give(waiter: _Waiter, names: frozenset[str]) -> None:
    if not waiter.future.done():
        waiter.future.set_result(names)


def _raise(waiter: _Waiter, error: PostbusError) -> None:
    if not waiter.future.done():
        waiter.future.set_exception(error)
