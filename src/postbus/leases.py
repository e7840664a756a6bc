"""Keeps a worker's leases alive from a thread of its own, so that a busy event loop cannot lose them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

from .delivery import Delivery
from .errors import PostbusError, TransportBroken
from .observe import Counters, log
from .transport import Renewer, WorkerInfo

__all__ = ["Leases"]


class Leases:
    """One thread, one connection: renews what the worker holds every third of the lease.

    Two renewals may fail and the third still be in time.  `renewed_at` is when the last pass that succeeded began, on
    the local monotonic clock: whatever was held then is leased until `renewed_at + lease`, unless it was lost.
    """

    def __init__(
        self,
        renewer: Renewer,
        lease: float,
        *,
        held: Callable[[], Sequence[Delivery]],
        info: Callable[[], WorkerInfo],
        lost: Callable[[Collection[Delivery]], None],
        failed: Callable[[BaseException], None],
        counters: Counters,
    ) -> None:
        self.renewed_at = time.monotonic()
        self._renewer = renewer
        self._lease = lease
        self._held = held
        self._info = info
        self._lost = lost
        self._failed = failed
        self._counters = counters
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="postbus-leases", daemon=True)
        self._down = False

    def start(self) -> None:
        """Say that the worker is here, and begin."""
        self._thread.start()

    def stop(self) -> None:
        """Say that the worker is gone, and end the thread; blocks for at most two seconds."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(min(self._lease, 2.0))

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            pause = 0.0
            while not self._stop.wait(pause):
                pause = self._pass()
            self._say_gone()
        except BaseException as error:  # noqa: BLE001 - a thread has no caller: the worker must hear of it
            self._failed(error)
        finally:
            self._renewer.close()

    def _pass(self) -> float:
        """Renew once; return how long to wait for the next."""
        began = time.monotonic()
        if began - self.renewed_at > self._lease and not self._down:  # else the transport is late, not this process
            self._counters.heartbeats_late += 1
            log.warning(
                "heartbeat starved: leases were renewed %.1f s ago, and last %.1f s; does a subscriber hold the "
                "interpreter?", began - self.renewed_at, self._lease,
            )  # fmt: skip
        try:
            lost = self._renewer.renew(self._held(), self._lease)
            self._renewer.beat(self._info())
        except PostbusError as error:
            if isinstance(error, TransportBroken):
                raise
            if not self._down:
                log.warning("leases cannot be renewed: %s; trying on", error)
            self._down = True
            self._counters.transport_errors += 1
            return self._lease / 10
        self._down = False
        self.renewed_at = began
        if lost:
            self._lost(lost)
        return self._lease / 3

    def _say_gone(self) -> None:
        try:
            self._renewer.beat(self._info())
        except PostbusError as error:
            log.info("the worker could not say that it is gone: %s", error)
