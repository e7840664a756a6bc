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
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

from ..bus import Bus
from ..child import ABANDONED, FAILED, UNREACHABLE, WRONG, heedless
from ..errors import AccessRefused, ConfigError, PostbusError, TransportBroken, TransportError
from ..failure import redacted
from ..figures import gauges_of, merged, packed, sums_of
from ..isolate import Isolation
from ..logs import show_crash
from ..observe import Fact, Started
from ..relay import Relay
from ..transport import Transport
from ..wishes import heed
from ..worker import Worker
from .activity import activity
from .orders import Orders

__all__ = ["main", "make_relay", "make_worker", "opened"]

log = logging.getLogger("postbus.process")

_BEAT = 1.0
_MEASURE = 2.0
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
            if self._orders.journal is not None:
                bus.journal.switch(on=self._orders.journal)
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
        if self._orders.relay == "alone":
            crew: list[Worker | Relay] = [make_relay(bus, self._orders)]
        else:
            self._worker = make_worker(bus, self._orders, isolation)
            crew = [self._worker]
            if not self._worker.info().subscriptions:
                raise ConfigError(
                    f"{self._orders.place} has no subscribers to run: declare one with @bus.subscriber(...)"
                )
            if self._orders.relay == "beside" and bus.outbox is not None:
                crew.append(make_relay(bus, self._orders))
        self._grace = crew[0].settings.grace
        async with AsyncExitStack() as stack:
            if not await opened(bus, stack, self._orders, self._stop):
                return 0
            if isolation is not None:
                stack.push_async_callback(isolation.close)
            return await self._work(bus, crew)

    async def _work(self, bus: Bus, crew: Sequence[Worker | Relay]) -> int:
        for one in crew:
            await one.start()
            log.info("worker %s runs %s", one.owner, ", ".join(one.info().subscriptions))
        self._link.say(ready=True, grace=crew[0].settings.grace, owner=crew[0].owner)
        tasks = [asyncio.create_task(self._beat(crew)), asyncio.create_task(self._stop.wait())]
        tasks += [asyncio.create_task(one.ended()) for one in crew]
        if self._orders.measure:
            tasks.append(asyncio.create_task(self._measure(bus)))
        if self._worker is not None and bus.journal.enabled:
            tasks.append(asyncio.create_task(heed(self._worker, partial(_transport_of, bus))))
        if self._orders.burst:
            tasks.append(asyncio.create_task(_until_idle(bus, crew)))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        failure = _failure(crew)
        if failure is not None:
            self._link.say(failed=redacted(f"{type(failure).__name__}: {failure}"))
        if self._worker is not None and self._worker.retired:
            self._link.say(retired=True)
        self._arm_guard()
        await asyncio.gather(*(one.stop(0.0 if failure is not None else None) for one in crew))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._orders.measure:
            self._link.say(figures=packed(sums_of(bus)))
        return _end(bus, crew)

    async def _measure(self, bus: Bus) -> None:
        """Beside the beat: a store that does not answer must not make the loop look stuck."""
        while True:
            gauges = await gauges_of(bus)
            self._link.say(figures=packed(merged([sums_of(bus), gauges])))
            await asyncio.sleep(_MEASURE)

    async def _beat(self, crew: Sequence[Worker | Relay]) -> None:
        """From the loop itself, so that a loop that does not turn is seen."""
        while True:
            info, healthy = crew[0].info(), all(one.healthy() for one in crew)
            self._link.say(state=info.state, healthy=healthy, busy=info.busy, concurrency=info.concurrency)
            await asyncio.sleep(_BEAT)

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


async def _transport_of(bus: Bus) -> Transport:
    return bus.transport


async def opened(bus: Bus, stack: AsyncExitStack, orders: Orders, stop: asyncio.Event) -> bool:
    """Open the bus, waiting for a transport that is not up; return False when told to stop meanwhile.

    A relay alone needs its outbox: the end of the transport's outage is what it waits for.

    Raises:
        TransportError: when it is not up after the connect timeout.
        AccessRefused: at once, since waiting would not help.
    """
    until, pause, said = time.monotonic() + orders.connect_timeout, _PAUSE[0], False
    entered = False
    while True:
        try:
            if not entered:
                await stack.enter_async_context(bus)
            entered = True
            if orders.relay != "alone":
                await bus.ping()
        except (AccessRefused, TransportBroken):
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


def make_relay(bus: Bus, orders: Orders) -> Relay:
    """A relay as ordered, not yet started."""
    return bus.make_relay(lease=orders.lease, grace=orders.grace, name=orders.name)


async def _until_idle(bus: Bus, crew: Sequence[Worker | Relay]) -> None:
    names = [name for one in crew for name in one.info().subscriptions]
    relays = any(isinstance(one, Relay) for one in crew)
    while True:
        await asyncio.sleep(_LOOK_IDLE)
        if not all(one.idle for one in crew):
            continue
        with suppress(TransportError):
            if relays and bus.outbox is not None:
                waiting = await bus.outbox.stats()
                if waiting.pending and not waiting.paused:
                    continue
            stats = await bus.stats()
            left = any(stats[n].backlog for n in names if n in stats and not stats[n].paused)
            if not left and all(one.idle for one in crew):
                return


def _failure(crew: Sequence[Worker | Relay]) -> BaseException | None:
    return next((one.failure for one in crew if one.failure is not None), None)


def _end(bus: Bus, crew: Sequence[Worker | Relay]) -> int:
    left, failure = sum(one.running for one in crew) + bus.counters.leaked_slots, _failure(crew)
    if left:
        log.critical("%d subscribers still run: abandoned; what they hold is handed on when its lease ends", left)
        _leave(ABANDONED if failure is None else FAILED)
    if failure is not None:
        raise _as_error(failure)
    log.info("worker %s ended; nothing was abandoned", crew[0].owner)
    return 0


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
