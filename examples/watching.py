import asyncio
import logging
from dataclasses import dataclass

from postbus import Bus, event
from postbus.observe import Fact, Finished

logging.basicConfig(level=logging.WARNING)
bus = Bus("memory://")


@event("jobs.job.queued")
@dataclass(frozen=True)
class JobQueued:
    number: int


@bus.subscriber(JobQueued)
async def work(event: JobQueued) -> None:
    await asyncio.sleep(0)


# --8<-- [start:observe]
slowest = 0.0


def measure(fact: Fact) -> None:
    global slowest  # noqa: PLW0603 - an example keeps it short
    if isinstance(fact, Finished):
        slowest = max(slowest, fact.seconds)


bus.observe(measure)
# --8<-- [end:observe]


async def main() -> None:
    async with bus:
        await bus.publish_many([JobQueued(number) for number in range(3)])
        # --8<-- [start:stats]
        health = await bus.health()  # connected, latency, and the totals; never raises for a dead server
        stats = await bus.stats()  # by subscription
        print(health.connected, stats["work"].backlog, stats.dead)
        # --8<-- [end:stats]
        await bus.drain()
        print(bus.counters.published, bus.counters.acked, slowest > 0)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# True 3 0
# 3 3 True
