"""Runs deliveries in child processes, one at a time in each: whatever kills its process, kills nothing else.

The parent keeps the lease and decides what a death means; the child has the program, an open bus, and one delivery.
They talk over a socket, in frames of a length and msgpack; its end tells the child that the parent is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeAlias

import msgspec

from .bus import Bus
from .child import ending, heedless
from .delivery import Delivery, Outcome, Requeue
from .dispatch import DONE, Dispatch, Done, Run
from .envelope import Envelope
from .errors import PostbusError
from .failure import redacted
from .logs import Logs, show_crash
from .program import Program
from .slots import ProcessDied

__all__ = ["Isolation", "main"]

log = logging.getLogger("postbus.isolate")

_IDLE = 10.0
# A child that is not ready by then is ended: importing the program and opening its bus hang.
_START = 60.0
# When no child can be started, the delivery waits so long, with no attempt spent.
_NOT_STARTED = 2.0


class _Job(msgspec.Struct, frozen=True):
    """One delivery, as far as a child needs it."""

    envelope: Envelope
    subscription: str
    attempt: int
    fence: int
    owner: str
    receipt: Any
    suspect: bool
    timeout: float


class _Ready(msgspec.Struct, frozen=True, tag=True):
    """The program is loaded and its bus is open."""


class _Began(msgspec.Struct, frozen=True, tag=True):
    """The delivery begins to run: from here on, a death is its own."""


class _Ended(msgspec.Struct, frozen=True, tag=True):
    """What became of it; no outcome where it was settled in its own transaction."""

    outcome: Outcome | None


_Report: TypeAlias = _Ready | _Began | _Ended

_encode = msgspec.msgpack.Encoder().encode
_report: msgspec.msgpack.Decoder[_Report] = msgspec.msgpack.Decoder(_Report)
_job = msgspec.msgpack.Decoder(_Job)


class _NotStarted(Exception):
    """A child ended, or hung, before it was ready; no delivery had to do with it."""


# -- the parent


class Isolation:
    """The child processes of one worker: started when needed, kept while used, ended after idling."""

    def __init__(self, program: Program, logs: Logs, *, idle: float = _IDLE) -> None:
        self._settings = json.dumps({"program": asdict(program), "logs": asdict(logs)})
        self._keep_for = idle
        self._idle: list[_Child] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def run(self, delivery: Delivery, timeout: float) -> Outcome | Done:
        """Run one delivery; see `slots.Isolate`.

        Raises:
            ProcessDied: when the process died under it.
        """
        while True:
            try:
                child = self._idle.pop() if self._idle else await _Child.start(self._settings)
            except _NotStarted as error:
                log.error("no process for an isolated delivery: %s", error)  # noqa: TRY400 - it says all there is
                return Requeue(_NOT_STARTED, suspect=delivery.suspect)
            try:
                outcome = await child.run(delivery, timeout)
            except BaseException:
                await child.end()
                raise
            if outcome is None:  # it had died while idle: this says nothing about the delivery
                await child.end()
                continue
            self._keep(child)
            return outcome

    async def close(self) -> None:
        """End the idle children; those that run are ended by who cancels them."""
        if self._timer is not None:
            self._timer.cancel()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(child.end() for child in idle), *self._closing)

    def _keep(self, child: _Child) -> None:
        child.idle_since = time.monotonic()
        self._idle.append(child)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._keep_for, self._retire)

    def _retire(self) -> None:
        self._timer = None
        now = time.monotonic()
        for child in [c for c in self._idle if now >= c.idle_since + self._keep_for]:
            self._idle.remove(child)
            task = asyncio.get_running_loop().create_task(child.end())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if self._idle:
            longest = self._idle[0].idle_since + self._keep_for - now
            self._timer = asyncio.get_running_loop().call_later(max(0.01, longest), self._retire)


class _Child:
    """One child process, as its parent sees it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.idle_since = 0.0
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, settings: str) -> _Child:
        """Start one and wait until it is ready.

        Raises:
            _NotStarted: when that fails.
        """
        ours, its = socket.socketpair()
        with its:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "postbus.isolate", str(its.fileno()), settings, pass_fds=[its.fileno()]
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        child = cls(process, reader, writer)
        try:
            async with asyncio.timeout(_START):
                report = await child._receive()
        except TimeoutError:
            await child.end()
            raise _NotStarted(f"it was not ready within {_START:g} s") from None
        except BaseException:
            await child.end()
            raise
        if report is None:
            await child.end()
            raise _NotStarted(f"it {ending(process.returncode)} before it was ready")
        return child

    async def run(self, delivery: Delivery, timeout: float) -> Outcome | Done | None:
        """Run one delivery; None when the child had died before it began.

        Raises:
            ProcessDied: when it died since.
        """
        job = _Job(
            delivery.envelope, delivery.subscription, delivery.attempt, delivery.fence, delivery.owner,
            delivery.receipt, delivery.suspect, timeout,
        )  # fmt: skip
        with suppress(ConnectionError):
            self._writer.write(_framed(_encode(job)))
            await self._writer.drain()
        began = False
        while True:
            match await self._receive():
                case _Ended(outcome):
                    return DONE if outcome is None else outcome
                case _Began():
                    began = True
                case _Ready():
                    pass
                case None:
                    code = await self._process.wait()
                    if not began:
                        return None
                    raise ProcessDied(f"the process that ran it {ending(code)}")

    async def _receive(self) -> _Report | None:
        """The child's next report, or None when it has gone."""
        try:
            size = int.from_bytes(await self._reader.readexactly(4))
            return _report.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def end(self) -> None:
        """End it, whatever it does."""
        self._writer.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


def _framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


# -- the child


class _Link:
    """The child's end: jobs come in by a thread, so that the parent's end is noticed whatever runs."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - a child of ours that held it would hide our death
        self._socket = socket.socket(fileno=descriptor)

    def say(self, report: _Report) -> None:
        """Report to the parent."""
        self._socket.sendall(_framed(_encode(report)))

    def listen(self, take: Callable[[_Job], None]) -> None:
        """Call `take` with each job, from a thread; the process ends with the connection."""
        threading.Thread(target=self._listen, args=[take], name="postbus-link", daemon=True).start()

    def _listen(self, take: Callable[[_Job], None]) -> None:
        with suppress(OSError), self._socket.makefile("rb") as frames:
            while head := frames.read(4):
                take(_job.decode(frames.read(int.from_bytes(head))))
        os._exit(0)


async def _serve(bus: Bus, link: _Link) -> None:
    loop = asyncio.get_running_loop()
    jobs: asyncio.Queue[_Job] = asyncio.Queue()

    def take(job: _Job) -> None:
        loop.call_soon_threadsafe(jobs.put_nowait, job)

    link.listen(take)
    dispatches: dict[str, Dispatch] = {}
    async with bus:
        link.say(_Ready())
        while True:
            job = await jobs.get()
            dispatch = dispatches.get(job.subscription)
            if dispatch is None:
                dispatch = dispatches[job.subscription] = bus.make_dispatch(job.subscription)
            link.say(_Began())
            outcome = await _run(dispatch, job)
            link.say(_Ended(None if isinstance(outcome, Done) else outcome))


def _restored(receipt: Any) -> Any:
    """Tuples travel as lists."""
    return tuple(receipt) if isinstance(receipt, list) else receipt


async def _run(dispatch: Dispatch, job: _Job) -> Outcome | Done:
    receipt = _restored(job.receipt)
    delivery = Delivery(job.envelope, job.subscription, job.attempt, job.fence, job.owner, receipt, job.suspect)
    run = Run()
    run.deadline = time.monotonic() + job.timeout
    outcome = dispatch.start(run, delivery)
    return await dispatch.finish(run, delivery) if outcome is None else outcome


def main(arguments: list[str]) -> int:
    """Run as `python -m postbus.isolate DESCRIPTOR SETTINGS`."""
    sys.excepthook = show_crash
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent has them, and says what they mean
        signal.signal(number, heedless)
    link = _Link(int(arguments[0]))
    settings = json.loads(arguments[1])
    try:
        Logs(**settings["logs"]).configure(redacted)
        asyncio.run(_serve(Program(**settings["program"]).load(), link))
    except PostbusError as error:
        log.error("cannot run isolated deliveries: %s", error)  # noqa: TRY400 - it says all there is
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
