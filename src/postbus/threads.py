"""Threads for `def` subscribers.  They are daemons: one that never ends cannot keep the process from ending."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias

__all__ = ["Job", "Result", "Threads"]

Result: TypeAlias = tuple[Any, BaseException | None]
Job: TypeAlias = tuple[Callable[[], Any], Callable[[Result], None]]


class Threads:
    """A pool that grows by need: the worker bounds how many run at once.

    The standard pool would join its threads at exit, and starve when some are stuck:
    https://docs.python.org/3/library/concurrent.futures.html
    """

    def __init__(self, name: str = "postbus-subscriber") -> None:
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._closed = False

    def run(self, fn: Callable[[], Any]) -> asyncio.Future[Any]:
        """Run `fn` in a thread; the future, of the running loop, has its result or whatever it raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def done(result: Result) -> None:
            if not loop.is_closed():  # else nobody waits any more
                loop.call_soon_threadsafe(_resolve, future, result)

        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._jobs.put((fn, done))
        return future

    def close(self) -> None:
        """Let idle threads end; those that run go on."""
        with self._lock:
            self._closed = True
            for _ in range(self._idle):
                self._jobs.put(None)

    def _work(self) -> None:
        while job := self._jobs.get():
            fn, done = job
            try:
                result: Result = (fn(), None)
            except BaseException as error:  # noqa: BLE001 - carried to the dispatch, which judges it
                result = (None, error)
            done(result)
            del job, fn, done, result  # keep no event alive while idle
            with self._lock:
                if self._closed:
                    return
                self._idle += 1


def _resolve(future: asyncio.Future[Any], result: Result) -> None:
    if future.done():
        return
    value, error = result
    if error is None:
        future.set_result(value)
    elif isinstance(
        error, StopIteration | GeneratorExit
    ):  # these would end whoever awaits, instead of being raised there
        future.set_exception(RuntimeError(f"the subscriber raised {error!r}"))
    else:
        future.set_exception(error)
    if error is not None:
        future.exception()  # looked at: an abandoned future does not complain
