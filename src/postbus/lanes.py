"""A subscription as one worker sees it (a lane), and what runs one delivery (a slot).  Data, and its arithmetic."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from .delivery import Delivery, Outcome
from .dispatch import Dispatch, Run
from .event import is_pattern
from .tally import LaneTally, Tally

__all__ = ["Lane", "Slot"]

# Without an explicit prefetch, a worker holds what it works off in this many seconds: so that nothing waits here for
# long while another worker is free.
_AHEAD = 0.1


class Lane:
    """One subscription in one worker.

    Attributes:
        ready: claimed and not started.
        sure_until: until when all of `ready` is surely leased without a renewal; `arrived` is when the last of it came.
        running: started and not ended, leaked ones included.
        unsettled: ended, and the settle not confirmed.
        outbox: ended, and the settle not sent.
        rung: there may be work at the transport.
        claiming: a claim is under way.
        queued: it stands in the worker's line of lanes that can start something.
        suspects: some wait to be run alone.
        tally: adds up what becomes of its deliveries.
        isolated: its subscriber runs in child processes.
        due_at: when the next delayed delivery is due, on the monotonic clock.
        backoff: seconds to wait before the next claim, after a failed one.
    """

    __slots__ = (
        "arrived",
        "backoff",
        "claimed_at",
        "claiming",
        "dispatch",
        "due_at",
        "finished",
        "isolated",
        "limit",
        "name",
        "ordered",
        "outbox",
        "prefetch",
        "queued",
        "ready",
        "rung",
        "running",
        "sure_until",
        "suspects",
        "tally",
        "timeout",
        "unsettled",
    )  # fmt: skip

    def __init__(self, dispatch: Dispatch, tally: Tally, *, isolated: bool) -> None:
        subscriber = dispatch.subscriber
        spec = subscriber.spec()
        self.dispatch = dispatch
        self.name = subscriber.name
        self.tally = LaneTally(tally, self.name, () if any(map(is_pattern, spec.wants)) else spec.topics)
        self.limit = subscriber.concurrency
        self.prefetch = subscriber.prefetch
        self.timeout = subscriber.timeout
        self.ordered = subscriber.ordered
        self.isolated = isolated and subscriber.isolation == "process"
        self.ready: deque[Delivery] = deque()
        self.arrived = 0.0
        self.sure_until = 0.0
        self.running = 0
        self.unsettled = 0
        self.outbox: list[tuple[Delivery, Outcome]] = []
        self.rung = True
        self.claiming = False
        self.queued = False
        self.suspects = False
        self.due_at: float | None = None
        self.backoff = 0.0
        self.finished = 0  # since the last claim
        self.claimed_at = 0.0

    @property
    def free(self) -> int:
        """How many more may start."""
        return self.limit - self.running - self.unsettled

    @property
    def busy(self) -> bool:
        """Whether it holds, claims, or knows of something to claim."""
        return bool(self.ready or self.running or self.unsettled or self.claiming or self.rung or self.suspects)

    def room(self, now: float) -> int:
        """How many more may be claimed now.  0 while a larger claim soon is better than a small one at once."""
        ahead = self.prefetch
        if ahead is None:
            rate = self.finished / max(now - self.claimed_at, 0.001)
            ahead = min(self.limit, int(rate * _AHEAD))
        most = self.limit + ahead
        room = most - len(self.ready) - self.running - self.unsettled
        return room if not self.ready or room * 2 >= most else 0

    def take_in(self, deliveries: Sequence[Delivery], arrived: float, sure_until: float) -> None:
        """Hold what a claim gave."""
        self.sure_until = min(self.sure_until, sure_until) if self.ready else sure_until
        self.arrived = arrived
        self.ready.extend(deliveries)

    def give_out(self) -> list[Delivery]:
        """Let go of what has not started."""
        waiting = list(self.ready)
        self.ready.clear()
        return waiting


class Slot(Run):
    """A runner task's own record: what it runs now, if anything.

    Attributes:
        task: the runner.
        lane: of what it runs.
        started: when, on the monotonic clock.
        cancelled_at: when the worker cancelled it, if it did.
        isolated: it runs in a child process.
        leaked: it would not end, and its delivery was settled without it.
    """

    __slots__ = ("cancelled_at", "isolated", "lane", "leaked", "started", "task")

    def __init__(self) -> None:
        super().__init__()
        self.task: asyncio.Task[None] | None = None
        self.lane: Lane | None = None
        self.started = 0.0
        self.cancelled_at: float | None = None
        self.isolated = False
        self.leaked = False

    @property
    def runs(self) -> bool:
        """Whether it runs something whose delivery is not settled yet."""
        return self.delivery is not None and not self.leaked
