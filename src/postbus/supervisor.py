"""Keeps worker processes running: starts, watches, restarts and ends them.  Knows nothing of what they run.

Each child holds one end of a socket.  It reports what it does; it is told to stop; and the end of the connection tells
each side that the other is gone, however it died.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from .child import ABANDONED, FAILED, UNREACHABLE, WRONG, Child, heedless

__all__ = ["Board", "Command", "Supervisor"]

log = logging.getLogger("postbus.supervisor")

# A child that dies before it is ready, or says soon after that it failed, gets so many tries.
_TRIES = 5
_PAUSE = (0.1, 5.0)
# Crashes and failures older than this do not count.
_FORGET = 30.0
_TICK = 1.0
# `timeout` and some shells send a signal to the process and to its group: that is one wish, not two.
_ECHO = 0.05
_ROLL = 0


class Command(Protocol):
    """How a child is started."""

    def __call__(self, descriptor: int, *, again: bool) -> Sequence[str]:
        """Return its command line.

        Args:
            descriptor: of its end of the socket.
            again: it takes the place of one that was ready before.
        """
        ...


class Board(Protocol):
    """Where the state of the processes is shown; see `health`."""

    def show(self, workers: Sequence[dict[str, Any]]) -> None:
        """Take the newest state of every worker process."""
        ...


class Supervisor:
    """Runs `processes` children until it is told to stop, or until they end by themselves."""

    def __init__(
        self,
        command: Command,
        *,
        processes: int = 1,
        until_done: bool = False,
        patient: bool = False,
        board: Board | None = None,
    ) -> None:
        """Make one; nothing is started.

        Args:
            command: makes the command line of a child.
            processes: how many run.
            until_done: a child that ends well is done; else another takes its place.
            patient: a child that cannot start is tried again at the next `roll`, instead of giving up.
            board: is shown the state of the processes, each second and at each change.
        """
        self._command = command
        self._processes = processes
        self._until_done = until_done
        self._patient = patient
        self._board = board
        self._children: list[Child] = []
        self._due: dict[int, float] = {}
        self._hopeless: set[int] = set()
        self._early_deaths = dict.fromkeys(range(processes), 0)
        self._was_ready: set[int] = set()
        self._crashes: dict[int, deque[float]] = {index: deque(maxlen=10) for index in range(processes)}
        self._failures: dict[int, deque[float]] = {index: deque(maxlen=_TRIES) for index in range(processes)}
        self._rolling: deque[int] = deque()
        self._asked_at: float | None = None
        self._stopping = False
        self._code = 0
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)  # noqa: FBT003 - the only way to say it
        self._selector.register(self._wake_out, selectors.EVENT_READ)

    def roll(self) -> None:
        """Replace the children one by one, each only when its successor is ready.  From any thread."""
        with suppress(OSError):
            self._wake_in.send(bytes([_ROLL]))

    def run(self) -> int:
        """Supervise, on the main thread; return the exit code."""
        with self._signals():
            for index in range(self._processes):
                self._start(index)
            while self._children or self._due or self._hopeless:
                self._wait()
                self._start_due()
                for child in tuple(self._children):
                    self._look_at(child)
                self._roll_on()
                self._show()
        self._selector.close()
        return self._code

    # -- what happens

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals arrive as bytes on a socket, so that none is missed between two looks."""
        heeded = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
        wakeup = signal.set_wakeup_fd(self._wake_in.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, heedless) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)

    def _wait(self) -> None:
        now = time.monotonic()
        times = [*self._due.values(), *(c.kill_at for c in self._children if c.kill_at is not None and not c.killed)]
        if self._board is not None:
            times.append(now + _TICK)
        timeout = max(0.0, min(times) - now) if times else None
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._wake_out:
                for wish in self._wake_out.recv(4096):
                    self._heed(wish)
            elif not key.data.hear():
                self._selector.unregister(key.fileobj)

    def _heed(self, wish: int) -> None:
        match wish:
            case signal.SIGTERM | signal.SIGINT:
                self._asked_to_stop(signal.Signals(wish).name)
            case signal.SIGHUP | 0:  # 0 is `roll`
                self._rolling = deque(range(self._processes))
                self._due |= dict.fromkeys(self._hopeless, time.monotonic())
                self._hopeless.clear()
            case signal.SIGUSR1:
                for child in self._children:
                    with suppress(OSError):
                        child.link.sendall(b"dump\n")
            case _:  # SIGCHLD: the look at every child follows anyway
                pass

    def _asked_to_stop(self, why: str) -> None:
        """The first time in order, the second time at once."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            log.info("%s: stopping; once more ends at once", why)
            self._stop_all(0)
        elif now - self._asked_at > _ECHO:
            self._end_now()

    def _look_at(self, child: Child) -> None:
        dead = child.process.poll() is not None
        if dead:
            child.hear()
        if child.ready:
            self._was_ready.add(child.index)
            self._early_deaths[child.index] = 0
            if child.replaces is not None:
                child.replaces.stop()
        if dead:
            self._forget(child)
            self._ended(child)
        elif child.kill_at is not None and time.monotonic() >= child.kill_at and not child.killed:
            log.critical("worker %d (pid %d) does not end: killed", child.index, child.process.pid)
            child.kill()

    def _ended(self, child: Child) -> None:
        """Decide what follows the end of a child."""
        code = child.process.returncode
        replaced = any(other.replaces is child for other in self._children)
        if child.kill_at is not None or self._stopping:
            self._note_stop(child)
        elif child.replaces in self._children and not child.ready:
            log.error("the new worker %d %s: the old one goes on", child.index, child.ending)
            self._rolling.clear()
        elif child.fatal:
            self._stop_all(FAILED)
        elif child.failed and child.ready and self._fails_again(child):
            log.critical("worker %d failed %d times: %s", child.index, _TRIES, child.failed)
            self._give_up(child, FAILED)
        elif replaced:
            log.error("worker %d (pid %d) %s while its successor starts", child.index, child.process.pid, child.ending)
        elif child.retired:
            log.info(
                "worker %d (pid %d) was stopped by an operator, and is not started again",
                child.index,
                child.process.pid,
            )
        elif self._until_done and code == 0:
            log.info("worker %d is done", child.index)
        elif not child.ready and child.index not in self._was_ready and code in (WRONG, UNREACHABLE):
            self._give_up(child, code)  # it said why, and trying again would not help
        else:
            self._restart(child)

    def _fails_again(self, child: Child) -> bool:
        """Whether it said that it cannot go on as often as that is believed; a crash says nothing."""
        failures = self._failures[child.index]
        failures.append(time.monotonic())
        return len(failures) == _TRIES and failures[0] > failures[-1] - _FORGET

    def _note_stop(self, child: Child) -> None:
        """It was told to stop; what it left undone is told by the exit code."""
        if child.killed or child.process.returncode == ABANDONED:
            log.warning("worker %d (pid %d) abandoned what it ran", child.index, child.process.pid)
            if self._stopping:
                self._code = self._code or ABANDONED
        elif self._stopping and child.ready and child.process.returncode > 0:
            self._code = self._code or FAILED

    # -- start and stop

    def _start(self, index: int, replaces: Child | None = None) -> None:
        ours, its = socket.socketpair()
        with its:
            command = self._command(its.fileno(), again=index in self._was_ready)
            process = subprocess.Popen(command, pass_fds=[its.fileno()])
        crashed = bool(self._crashes[index]) and replaces is None
        child = Child(index, process, ours, replaces, again=crashed)
        self._children.append(child)
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _start_due(self) -> None:
        for index, at in tuple(self._due.items()):
            if time.monotonic() >= at:
                del self._due[index]
                self._start(index)

    def _restart(self, child: Child) -> None:
        index, now = child.index, time.monotonic()
        if not child.ready:
            self._early_deaths[index] += 1
            if self._early_deaths[index] >= _TRIES:
                log.critical("worker %d %s before it was ready, %d times", index, child.ending, _TRIES)
                code = child.process.returncode
                self._give_up(child, code if code in (WRONG, UNREACHABLE) else FAILED)
                return
        crashes = self._crashes[index]
        recent = sum(1 for at in crashes if at > now - _FORGET)
        crashes.append(now)
        pause = min(_PAUSE[0] * 2 ** (recent - 1), _PAUSE[1]) if recent else 0.0
        log.error("worker %d (pid %d) %s; another starts in %.1f s", index, child.process.pid, child.ending, pause)
        self._due[index] = now + pause

    def _give_up(self, child: Child, code: int) -> None:
        if self._patient and not self._stopping:
            self._hopeless.add(child.index)
            self._early_deaths[child.index] = 0
            log.error("worker %d cannot start: waiting for a change", child.index)
        else:
            self._stop_all(code)

    def _forget(self, child: Child) -> None:
        with suppress(KeyError):  # it had hung up already
            self._selector.unregister(child.link)
        child.link.close()
        self._children.remove(child)

    def _stop_all(self, code: int) -> None:
        self._code = self._code or code
        self._stopping = True
        self._due.clear()
        self._hopeless.clear()
        self._rolling.clear()
        for child in self._children:
            child.stop()

    def _end_now(self) -> None:
        """Nothing is lost: what was running may run again."""
        log.warning("ending at once")
        self._code = ABANDONED
        for child in self._children:
            child.kill()

    def _roll_on(self) -> None:
        if not self._rolling or any(c.replaces in self._children for c in self._children if c.replaces is not None):
            return
        old = next((c for c in self._children if c.index == self._rolling[0]), None)
        if old is not None and not old.ready:  # it may have read what was there before the change
            return
        index = self._rolling.popleft()
        if old is None:  # it is being restarted anyway
            return
        log.info("replacing worker %d (pid %d)", index, old.process.pid)
        self._start(index, replaces=old)

    def _show(self) -> None:
        if self._board is not None:
            gone = [{"worker": index, "pid": None, "ready": False} for index in self._due]
            self._board.show([*(child.state() for child in self._children), *gone])
