"""A bus' transport from opening to closing: declared before it is used, one for each process, for sync callers too."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from .address import Address, Settings
from .connect import connect
from .errors import Closed, ConfigError, ForkError, PostbusError, PublishFailed, TransportBroken, TransportError
from .observe import log
from .portal import Portal
from .transport import SubscriptionSpec, Transport

__all__ = ["Companion", "Lifecycle", "in_event_loop", "refuse_loop"]

T = TypeVar("T")

# Transports that a fork left behind: closing them in the child would disturb the parent's connections.
_abandoned: list[Transport] = []
_lives: WeakSet[Lifecycle] = WeakSet()

# Between two tries to reach a transport that is down, and that publishes do not wait for.
_PAUSE = (0.1, 2.0)


def _forked() -> None:
    """In a forked child no bus is ready, whatever it was in the parent."""
    for life in _lives:
        life.prompt = False


os.register_at_fork(after_in_child=_forked)


def in_event_loop() -> bool:
    """Whether an event loop runs on this thread."""
    return asyncio._get_running_loop() is not None  # noqa: SLF001 - asyncio documents it for this; the public one raises


def refuse_loop(call: str, instead: str) -> None:
    """Refuse a sync call on the thread of a running event loop, which it would block.

    Raises:
        ConfigError: saying what to call.
    """
    if in_event_loop():
        raise ConfigError(f"`{call}` would block the event loop that runs on this thread: use `{instead}`")


@contextmanager
def _beside(within: object) -> Iterator[None]:
    """A transport that opens beside the caller's transaction, on a connection of its own, may wait for just that."""
    try:
        yield
    except TransportError as error:
        if within is None:
            raise
        raise PublishFailed(
            f"nothing is stored: the bus could not be opened while the transaction given as within= is open, whose own "
            f"lock may be what it waits for: open the bus before, by `with bus:` or bus.ensure_open() ({error})"
        ) from error


class Companion(Protocol):
    """What lives while a transport is open."""

    async def begin(self, transport: Transport) -> None:
        """It was opened."""
        ...

    async def end(self) -> None:
        """It is about to be closed."""
        ...


class Lifecycle:
    """The transport of one bus.  Opened as often as it is closed; a fork begins anew.

    Args:
        specs: what this program declares.
        front: what publishes go to in its stead, an outbox: opened before it, and closed after it.  With one, a
            transport that is down is no reason not to open: it is reached, and declared to, when it is there again.

    Attributes:
        transport: the one of this process.
        entrance: where publishes go: the front, or this one itself.
        declares: whether opening declares.
        prompt: open, declared, and in the process that opened it: a publish need not look any further.
    """

    def __init__(
        self,
        address: Address,
        settings: Settings,
        *,
        declares: bool,
        specs: Callable[[], Sequence[SubscriptionSpec]],
        front: Lifecycle | None = None,
    ) -> None:
        self.transport = connect(address, settings)
        self.entrance = self if front is None else front
        self._front = front
        self.declares = declares
        self.prompt = False
        self._bind: Callable[[Transport], None] | None = None
        self._companions: list[Companion] = []
        self._address = address
        self._settings = settings
        self._specs = specs
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._opens = 0
        self._closed = False
        self._opening: asyncio.Lock | None = None
        self._undeclared = True
        self._reached = False
        self._reaching: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._portal: Portal | None = None
        _lives.add(self)

    def follow(self, bind: Callable[[Transport], None]) -> None:
        """Tell `bind` which transport is in use: now, and again after a fork."""
        self._bind = bind
        bind(self.transport)

    def accompany(self, companion: Companion) -> None:
        """Let it begin when the transport has been opened, and end before that is closed."""
        self._companions.append(companion)

    # -- open and close

    async def open(self) -> None:
        """Open the transport, and declare; only the first of several does."""
        self._adopt()
        self._opening = self._opening or asyncio.Lock()
        async with self._opening:
            self._opens += 1
            if self._opens > 1:
                return
            self._undeclared = True
            self._reached = False
            try:
                if self._front is None:
                    await self._reach()
                else:
                    await self._open_behind(self._front)
                self._loop = asyncio.get_running_loop()
                self._closed = False
            except BaseException:
                self._opens -= 1
                raise

    async def _open_behind(self, front: Lifecycle) -> None:
        await front.open()
        try:
            await self._reach()
        except TransportBroken:
            await front.close()
            raise
        except TransportError as error:
            log.warning("%s cannot be reached: %s; what is published waits in the outbox", self._address, error)
            self._reaching = asyncio.get_running_loop().create_task(self._keep_reaching())
        except BaseException:
            await front.close()
            raise

    async def _reach(self) -> None:
        await self.transport.open()
        if self._undeclared and self.declares:
            await self.declare()
        for companion in self._companions:
            await companion.begin(self.transport)
        self._reached = True

    async def _keep_reaching(self) -> None:
        """Until it is there: no publish waits for it, and it may be that nobody else asks for it."""
        pause = _PAUSE[0]
        while True:
            await asyncio.sleep(pause)
            try:
                await self.ready()
            except TransportBroken as error:
                log.error("%s cannot be used: %s", self._address, error)
                return
            except TransportError:
                pause = min(2 * pause, _PAUSE[1])
            except PostbusError as error:
                log.error("%s cannot be used: %s", self._address, error)
                return
            else:
                log.info("%s is reached", self._address)
                return

    async def close(self) -> None:
        """Close the transport; only the last of several does, and never a forked child: it is the parent's."""
        if self._opens == 0 or self._pid != os.getpid():
            return
        self._opens -= 1
        if self._opens == 0:
            self._closed = True
            self.prompt = False
            self._opening = None
            if self._reaching is not None:
                self._reaching.cancel()
                await asyncio.gather(self._reaching, return_exceptions=True)
                self._reaching = None
            if self._reached:
                for companion in self._companions:
                    await companion.end()
            await self.transport.close()
            if self._front is not None:
                await self._front.close()

    def open_sync(self) -> None:
        """As `open`, for a caller without an event loop."""
        self._adopt()
        self.run(self.open())

    def close_sync(self) -> None:
        """As `close`, for a caller without an event loop."""
        if self._pid != os.getpid():
            return
        self.run(self.close())
        if self._opens == 0 and self._portal is not None:
            self._portal.close()
            self._portal = None

    def _adopt(self) -> None:
        """After a fork this process needs connections of its own."""
        if self._pid != os.getpid():
            _abandoned.append(self.transport)
            self.transport = connect(self._address, self._settings)
            self._pid = os.getpid()
            self._lock = threading.RLock()
            self._opens = 0
            self._opening = None
            self._portal = None
            self._loop = None
            self._reaching = None
            if self._bind is not None:
                self._bind(self.transport)

    # -- use

    async def ready(self, within: object = None) -> Transport:
        """The open transport, with what is declared declared; for a publish in the transaction `within`, if any.

        Raises:
            Closed: when it is not open.
            ForkError: in a forked child.
            PublishFailed: when that transaction may be what keeps it from opening.
        """
        with _beside(within):
            return await self._made_ready()

    async def _made_ready(self) -> Transport:
        if self._pid != os.getpid():
            raise ForkError("the bus was opened before a fork: open it in this process, with `async with bus:`")
        if self._opens == 0:
            raise Closed("the bus is not open: use it inside `async with bus:` or `with bus:`")
        if not self._reached and self._opening is not None:
            async with self._opening:
                if not self._reached:
                    await self._reach()
        if self._undeclared and self.declares:
            await self.declare()
        self.prompt = True
        return self.transport

    def ready_sync(self, within: object = None) -> Transport:
        """As `ready`, opening lazily: a web worker that forks has no better moment."""
        with _beside(within):
            return self._made_ready_sync()

    def _made_ready_sync(self) -> Transport:
        if self._pid != os.getpid():
            if not self.transport.traits.shared:
                raise ForkError(f"{self._address} lives in one process, and this is a forked child of it")
            self._adopt()
        with self._lock:  # several threads may come first
            if self._opens == 0:
                if self._closed:
                    raise Closed("the bus is closed: use it inside `with bus:`")
                self.run(self.open())
            elif self._undeclared and self.declares:
                self.run(self.declare())
            self.prompt = True
        return self.transport

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine for a sync caller, on the loop that the bus is open on, else on a loop thread."""
        if self._opens and self._loop is not None and self._portal is None and self._loop.is_running():
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        if self._portal is None:
            with self._lock:
                self._portal = self._portal or Portal()
        return self._portal.run(work)

    # -- declare

    def changed(self) -> None:
        """What the program declares is no longer what was declared."""
        self._undeclared = True
        self.prompt = False

    async def declare(self, *, newest: bool = False) -> None:
        """Declare what the program declares now."""
        self._undeclared = False
        try:
            conflicts = await self.transport.declare(self._specs(), newest=newest)
        except BaseException:
            self._undeclared = True
            raise
        for conflict in conflicts:
            log.warning(
                "subscription %r keeps a newer declaration than this program's: %s; run `postbus setup` if this "
                "program is meant to be the newest", conflict.subscription, conflict.message,
            )  # fmt: skip
