"""Makes the scenes of the script happen, and says in one sentence what happened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from postbus import Bus

from .announcer import Announcer
from .crew import Crew
from .outside import Outside
from .roster import Member
from .sight import Lane, Mood
from .storm import Act, Happening
from .watch import Orphans, Watch

__all__ = ["Director", "Tell"]

# Said once, when a subscription has its first dead letter.
FIRST_DEAD = {
    "rebooking": "some have used up their 4 attempts at rebooking: dead letters",
    "refunds": "a refund was rejected for good: a dead letter, the others go on",
    "crews": "a diverted flight has no hours: a dead letter for a person",
}


class Tell(Protocol):
    """Takes one sentence of news."""

    def __call__(self, text: str, mood: Mood = "plain") -> None:
        """Note it, by the storm's clock."""
        ...


class Director:
    """Acts on the bus, the workers and the outside."""

    def __init__(
        self,
        *,
        bus: Bus,
        crew: Crew,
        outside: Outside,
        announcer: Announcer,
        watch: Watch,
        size: int,
        tell: Tell,
    ) -> None:
        self._bus = bus
        self._crew = crew
        self._outside = outside
        self._announcer = announcer
        self._watch = watch
        self._size = size
        self._tell = tell
        self._ordered_dead: set[int] = set()
        self._to_replace = 0
        self._to_remark = dict(FIRST_DEAD)

    async def perform(self, act: Act, upcoming: Sequence[Happening]) -> None:
        """Make one scene happen; `upcoming` are the announcements that come next."""
        match act:
            case "withdraw":
                await self._withdraw(upcoming)
            case "rebooking down":
                self._outside.tell("down", "rebooking")
                self._tell("the rebooking service is down: retries, and a growing backlog", "bad")
            case "kill worker":
                await self._kill()
            case "rebooking up":
                self._outside.tell("up", "rebooking")
                self._tell("the rebooking service is back, and the backlog drains", "good")
            case "fix refunds":
                self._outside.tell("fix", "refunds")
                self._tell("the refund service was fixed: its dead letters can be replayed", "good")
                await self.replay("refunds")
            case "replay rebooking":
                await self.replay("rebooking")
            case "deploy":
                self._deploy()
            case "pause crews":
                await self._bus.subscriptions.pause("crews")
                self._tell("payroll closes its month: 'crews' is paused, its events wait")
            case "resume crews":
                await self._bus.subscriptions.resume("crews")
                self._tell("'crews' is resumed", "good")

    async def _withdraw(self, upcoming: Sequence[Happening]) -> None:
        count = await self._announcer.withdraw(upcoming)
        if count:
            self._tell(f"a transaction of {count} failed: neither board nor bus kept any")

    async def _kill(self) -> None:
        member = self._watch.busiest()
        if member is not None:
            await self._crew.kill(member.pid)
            self._ordered_dead.add(member.pid)
            await self._watch.ask()
            self.follow_the_crew()

    def follow_the_crew(self) -> None:
        """Say who came and who died, and when the last of what a dead one had left was done.

        Raises:
            CrewFailed: when there is no supervisor left to keep the crew.
        """
        self._crew.check()
        for member in self._watch.roster.died():
            self._report_death(self._watch.mourn(member), ordered=member.pid in self._ordered_dead)
        self._greet(self._watch.roster.arrived())
        for orphans in self._watch.taken_over():
            seconds = time.monotonic() - orphans.killed.at
            self._tell(
                f"what worker {orphans.killed.worker} had begun is done by others, after {seconds:.1f} s", "good"
            )

    def _greet(self, arrived: Sequence[Member]) -> None:
        if arrived and arrived[-1].number == self._size:
            self._tell(f"{self._size} workers are up, and take what has waited", "good")
        for member in arrived:
            if self._to_replace > 0:
                self._to_replace -= 1
                if not self._to_replace:
                    self._tell(f"all {self._size} workers are replaced", "good")
            elif member.number > self._size:
                self._tell(f"worker {member.number} (pid {member.pid}) joined", "good")

    def _report_death(self, orphans: Orphans, *, ordered: bool) -> None:
        how = "was killed" if ordered else "died (was it you?)"
        what = "1 delivery moves" if orphans.unfinished == 1 else f"{orphans.unfinished} deliveries move"
        self._tell(f"worker {orphans.killed.worker} {how}: its {what} when its lease ends", "bad")

    def _deploy(self) -> None:
        self._crew.replace_all()
        self._to_replace = self._size
        self._tell("a deploy: each worker ends when its successor is ready")

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
