"""Makes the scenes of the script happen, and says in one sentence what happened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from postbus import Bus

from .announcer import Announcer
from .crew import Crew, Worker
from .outside import Outside
from .sight import Lane, Mood
from .storm import Act, Happening
from .watch import Orphans, Watch

__all__ = ["Director", "Tell"]

# Said once, when a subscription has its first dead letter.
FIRST_DEAD = {
    "rebooking": "rebooking has used up the 4 attempts of some: they become dead letters, and are kept",
    "refunds": "a refund without an aircraft is rejected: a dead letter at once, and the others go on",
    "crews": "a diverted flight has no hours on record: a dead letter, for a person to look at",
}

# Until a killed worker is replaced: long enough to see the others do without it.
ABSENCE = 2.5


class Tell(Protocol):
    """Takes one sentence of news."""

    def __call__(self, text: str, mood: Mood = "plain") -> None:
        """Note it, by the storm's clock."""
        ...


class Director:
    """Acts on the bus, the workers and the outside."""

    def __init__(
        self, *, bus: Bus, crew: Crew, outside: Outside, announcer: Announcer, watch: Watch, lease: float, tell: Tell
    ) -> None:
        self._bus = bus
        self._crew = crew
        self._outside = outside
        self._announcer = announcer
        self._watch = watch
        self._lease = lease
        self._tell = tell
        self._refill_at: float | None = None
        self._to_remark = dict(FIRST_DEAD)

    async def perform(self, act: Act, upcoming: Sequence[Happening]) -> None:
        """Make one scene happen; `upcoming` are the announcements that come next."""
        match act:
            case "withdraw":
                await self._withdraw(upcoming)
            case "rebooking down":
                self._outside.tell("down", "rebooking")
                self._tell("the rebooking service went down: retries begin, its backlog grows", "bad")
            case "kill worker":
                self._kill()
            case "rebooking up":
                self._outside.tell("up", "rebooking")
                self._tell("the rebooking service is back, and the backlog drains", "good")
            case "fix refunds":
                self._outside.tell("fix", "refunds")
                self._tell("the refund service was fixed: it takes flights without an aircraft", "good")
                await self.replay("refunds")
            case "replay rebooking":
                await self.replay("rebooking")
            case "restart worker":
                self._restart()
            case "pause crews":
                await self._bus.subscriptions.pause("crews")
                self._tell("payroll closes its month: 'crews' is paused, and its events wait")
            case "resume crews":
                await self._bus.subscriptions.resume("crews")
                self._tell("'crews' is resumed", "good")

    async def _withdraw(self, upcoming: Sequence[Happening]) -> None:
        count = await self._announcer.withdraw(upcoming)
        if count:
            self._tell(f"a transaction with {count} announcements failed: board and bus kept none; told again")

    def _kill(self) -> None:
        running = self._crew.running()
        if running:
            worker = max(running, key=lambda worker: len(self._watch.running_in(worker)))
            self._crew.kill(worker)
            self.report_death(worker, "was killed (SIGKILL)")

    def report_death(self, worker: Worker, how: str) -> None:
        """Say that a worker is dead, and plan for another."""
        orphans = self._watch.mourn(worker)
        what = "1 delivery moves" if orphans.unfinished == 1 else f"its {orphans.unfinished} deliveries move"
        self._tell(f"worker {worker.number} {how}: {what} when its lease of {self._lease:g} s ends", "bad")
        self._refill_at = time.monotonic() + ABSENCE

    def report_taken_over(self, orphans: Orphans) -> None:
        """Say that everything a dead worker had left was done by others."""
        killed = orphans.killed
        seconds = time.monotonic() - killed.at
        what = "delivery" if orphans.unfinished == 1 else f"{orphans.unfinished} deliveries"
        self._tell(f"the {what} of worker {killed.worker} were done by others, {seconds:.1f} s after its death", "good")

    def _restart(self) -> None:
        running = self._crew.running()
        if running:
            self._crew.stop(running[0])
            numbers = " and ".join(str(worker.number) for worker in self._crew.fill())
            self._tell(f"a deploy: worker {running[0].number} was asked to stop (SIGTERM), worker {numbers} starts")

    def keep_the_crew(self) -> None:
        """Notice who died without the script's doing, and replace the dead when it is time."""
        for worker in self._crew.look():
            self.report_death(worker, "died, and not by this script")
        if self._refill_at is not None and time.monotonic() > self._refill_at:
            self._refill_at = None
            for worker in self._crew.fill():
                self._tell(f"worker {worker.number} (pid {worker.pid}) takes the empty place", "good")

    def remark(self, lanes: Sequence[Lane]) -> None:
        """Say what is seen for the first time."""
        for lane in lanes:
            if lane.dead and lane.name in self._to_remark:
                self._tell(self._to_remark.pop(lane.name), "bad")

    async def replay(self, subscription: str) -> int:
        """Give a subscription's dead letters another chance; return how many."""
        count = await self._bus.dead.replay(subscription)
        if count:
            what = "1 dead letter" if count == 1 else f"{count} dead letters"
            self._tell(f"{what} of '{subscription}' replayed", "good")
        return count
