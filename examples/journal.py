import asyncio
import logging
from dataclasses import dataclass

from postbus import Bus, Retry, event
from postbus.journal import acting_as

logging.basicConfig(level=logging.CRITICAL)
bus = Bus("sqlite:///jobs.db")


@event("jobs.job.queued", key="number")
@dataclass(frozen=True)
class JobQueued:
    number: int


@bus.subscriber(JobQueued, retry=Retry(attempts=2, delay=0.01, jitter=0))
async def work(event: JobQueued) -> None:
    if event.number == 2:
        raise OSError("the printer is away")


async def main() -> None:
    async with bus:
        jobs = await bus.publish_many([JobQueued(number) for number in range(3)])
        await bus.drain()

        # --8<-- [start:series]
        history = await bus.journal.series(900)  # the last 15 minutes, of all processes
        total = history.subscriptions["work"].sum
        print(total.handled, total.retried, total.buried, len(history.total.points))
        # --8<-- [end:series]

        # --8<-- [start:attempts]
        for attempt in reversed(await bus.journal.attempts(jobs[2].id)):
            print(attempt.attempt, attempt.outcome, attempt.failure.message if attempt.failure else "")
        # --8<-- [end:attempts]

        # --8<-- [start:explain]
        told = await bus.explain(jobs[2].id)
        print(told.standings[0].state, told.standings[0].because.partition(" after ")[2])
        # --8<-- [end:explain]

        # --8<-- [start:actions]
        with acting_as("alice"):
            await bus.dead.discard("work")
        (action,) = await bus.journal.actions()
        print(action.who, action.what, action.target, action.result)
        # --8<-- [end:actions]


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# 2 1 1 90
# 1 retried the printer is away
# 2 buried the printer is away
# dead 2 attempts: attempts spent (OSError: the printer is away)
# alice dead.discard work 1 dead letters
