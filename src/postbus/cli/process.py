"""One worker process, started by the supervisor: loads the program, runs its worker, reports, and ends when told."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from ..bus import Bus
from ..child import ABANDONED, FAILED, UNREACHABLE, WRONG, heedless
from ..errors import ConfigError, PostbusError, TransportBroken, TransportError
from ..failure import redacted
from ..isolate import Isolation
from ..logs import show_crash
from ..observe import Fact, Started
from ..worker import Worker
from .activity import activity
from .orders import Orders

__all__ = ["main", "make_worker", "opened"]

log = logging.getLogger("postbus.process")

_BEAT = 1.0
_PAUSE = (0.05, 2.0)
_LOOK_IDLE = 0.02
# Bytes of reports that are kept for a supervisor that does not listen; later ones are not.
_UNSENT = 65536
# The process ends so long after the grace, whatever still runs; the supervisor's kill comes a little later.
_MERCY = 0.9


class Link:
    """The socket to the supervisor: reports go out, words come in, and its end means that the supervisor is gone."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - a child of ours that held it would hide our death
        self._socket = socket.socket(fileno=descriptor)
        self._unsent = b""

    def say(self, **report: Any) -> None:
        """Report; a supervisor that does not listen (it may be stopped) must not hold this process up."""
        if len(self._unsent) < _UNSENT:
            self._unsent += json.dumps(report).encode() + b"\n"
        with suppress(OSError):
            sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
            self._unsent = self._unsent[sent:]

    def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with each word from a thread, at last with 'gone'."""
        threading.Thread(target=self._listen, args=[heard], name="postbus-link", daemon=True).start()

    def _listen(self, heard: Callable[[str], None]) -> None:
        with suppress(OSError), self._socket.makefile("r") as words:
            for word in words:
                heard(word.strip())
        heard("gone")


class Process:
    """The life of one worker process."""

    def __init__(self, orders: Orders, link: Link) -> None:
        self._orders = orders
        self._link = link
        self._stop_asked = threading.Event()
        self._grace = 25.0
        self._worker: Worker | None = None
        self._bus: Bus | None = None
        self._started = 0

    def run(self) -> int:
        """Run until told to stop, or until it is done; return the exit code."""
        try:
            self._bus = bus = self._orders.program.load()
        except ConfigError as error:
            return self._report(WRONG, error)
        try:
            with asyncio.Runner(loop_factory=_loop_factory(self._orders.loop)) as runner:
                return runner.run(self._live(bus))
        except ConfigError as error:
            return self._report(WRONG, error)
        except TransportBroken as error:
            return self._report(FAILED, error, fatal=True)
        except TransportError as error:
            return self._report(UNREACHABLE, error)

    def _report(self, code: int, error: BaseException, *, fatal: bool = False) -> int:
        log.critical("%s", error)
        self._link.say(failed=redacted(f"{type(error).__name__}: {error}"), fatal=fatal)
        return code

    # -- the loop

    async def _live(self, bus: Bus) -> int:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._loop.add_signal_handler(signal.SIGTERM, self._ask_to_stop, "SIGTERM")
        self._loop.add_signal_handler(signal.SIGUSR1, self._dump)
        self._link.listen(self._heard)
        shared = bus.transport.traits.shared
        if not shared:
            log.warning("%r lives in one process: this worker receives only what is published in it", bus)
        isolation = Isolation(self._orders.program, self._orders.logs) if shared else None
        if self._orders.max_messages is not None:
            bus.observe(self._count)
        self._worker = worker = make_worker(bus, self._orders, isolation)
        if not worker.info().subscriptions:
            raise ConfigError(f"{self._orders.place} has no subscribers to run: declare one with @bus.subscriber(...)")
        self._grace = worker.settings.grace
        async with AsyncExitStack() as stack:
            if not await opened(bus, stack, self._orders.connect_timeout, self._stop):
                return 0
            if isolation is not None:
                stack.push_async_callback(isolation.close)
            return await self._work(bus, worker)

    async def _work(self, bus: Bus, worker: Worker) -> int:
        await worker.start()
        log.info("worker %s runs %s", worker.owner, ", ".join(worker.info().subscriptions))
        self._link.say(ready=True, grace=worker.settings.grace, owner=worker.owner)
        tasks = [asyncio.create_task(self._beat(worker)), asyncio.create_task(self._stop.wait())]
        tasks.append(asyncio.create_task(worker.ended()))
        if self._orders.burst:
            tasks.append(asyncio.create_task(self._until_idle(bus, worker)))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if worker.failure is not None:
            self._link.say(failed=redacted(f"{type(worker.failure).__name__}: {worker.failure}"))
        self._arm_guard()
        await worker.stop(0.0 if worker.failure is not None else None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self._end(bus, worker)

    def _end(self, bus: Bus, worker: Worker) -> int:
        left = worker.running + bus.counters.leaked_slots
        if left:
            log.critical("%d subscribers still run: abandoned; what they hold is handed on when its lease ends", left)
            _leave(ABANDONED if worker.failure is None else FAILED)
        if worker.failure is not None:
            raise _as_error(worker.failure)
        log.info("worker %s ended; nothing was abandoned", worker.owner)
        return 0

    async def _beat(self, worker: Worker) -> None:
        """From the loop itself, so that a loop that does not turn is seen."""
        while True:
            info = worker.info()
            self._link.say(state=info.state, healthy=worker.healthy(), busy=info.busy, concurrency=info.concurrency)
            await asyncio.sleep(_BEAT)

    async def _until_idle(self, bus: Bus, worker: Worker) -> None:
        names = worker.info().subscriptions
        while True:
            await asyncio.sleep(_LOOK_IDLE)
            if worker.idle:
                with suppress(TransportError):
                    stats = await bus.stats()
                    if worker.idle and not any(stats[n].backlog for n in names if n in stats and not stats[n].paused):
                        return

    def _count(self, fact: Fact) -> None:
        if isinstance(fact, Started):
            self._started += 1
            if self._started == self._orders.max_messages and self._worker is not None:
                self._worker.halt()
                self._stop.set()

    # -- words and signals

    def _heard(self, word: str) -> None:
        """Called from the link's thread, so that it works while the loop is blocked."""
        match word:
            case "stop" | "gone":
                if word == "gone" and not self._stop_asked.is_set():
                    log.warning("the supervisor is gone: stopping")
                self._arm_guard()
                with suppress(RuntimeError):  # the loop is closed: it has ended anyway
                    self._loop.call_soon_threadsafe(self._stop.set)
            case "dump":
                self._dump()
            case _:
                log.warning("the supervisor says %r, which means nothing here", word)

    def _ask_to_stop(self, why: str) -> None:
        log.info("%s: stopping", why)
        self._arm_guard()
        self._stop.set()

    def _arm_guard(self) -> None:
        """A thread that cannot be cancelled, or a loop that is blocked, must not outlive the grace."""
        if not self._stop_asked.is_set():
            self._stop_asked.set()
            guard = threading.Timer(self._grace + _MERCY, self._abandon)
            guard.daemon = True
            guard.start()

    def _abandon(self) -> None:
        log.critical("the grace of %g s is over: abandoned what still runs", self._grace)
        _leave(ABANDONED)

    def _dump(self) -> None:
        log.warning("%s", activity(self._loop, self._worker, self._bus))


async def opened(bus: Bus, stack: AsyncExitStack, patience: float, stop: asyncio.Event) -> bool:
    """Open the bus, waiting for a transport that is not up; return False when told to stop meanwhile.

    Raises:
        TransportError: when it is not up after `patience` seconds.
    """
    until, pause, said = time.monotonic() + patience, _PAUSE[0], False
    while True:
        try:
            await stack.enter_async_context(bus)
        except TransportBroken:
            raise
        except TransportError as error:
            if time.monotonic() + pause > until:
                raise
            if not said:
                log.warning("cannot open %r: %s; trying on", bus, error)
            said = True
        else:
            return True
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
            return False
        pause = min(2 * pause, _PAUSE[1])


def make_worker(bus: Bus, orders: Orders, isolation: Isolation | None) -> Worker:
    """A worker as ordered, not yet started."""
    return bus.make_worker(
        only=orders.only or None,
        exclude=orders.exclude,
        isolate=isolation,
        concurrency=orders.concurrency,
        lease=orders.lease,
        grace=orders.grace,
        name=orders.name,
    )


def _loop_factory(kind: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if kind == "asyncio":
        return None
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ModuleNotFoundError:
        if kind == "auto":
            return None
        raise ConfigError("--loop uvloop needs uvloop, which is not installed: pip install 'postbus[uvloop]'") from None
    return factory


def _as_error(failure: BaseException) -> PostbusError:
    return failure if isinstance(failure, PostbusError) else WorkerFailed(f"{type(failure).__name__}: {failure}")


class WorkerFailed(PostbusError):
    """The worker ended by a fault of its own; the supervisor starts another."""


def _leave(code: int) -> None:
    """End without waiting for threads, which may never end."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main(arguments: list[str]) -> int:
    """Run as `python -m postbus.cli.process DESCRIPTOR ORDERS`."""
    sys.excepthook = show_crash
    signal.signal(signal.SIGINT, heedless)  # the supervisor has it, and says what it means
    link = Link(int(arguments[0]))
    orders = Orders(**json.loads(arguments[1]))
    try:
        orders.logs.configure(redacted)
        return Process(orders, link).run()
    except ConfigError as error:
        log.critical("%s", error)
        return WRONG
    except WorkerFailed:
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
