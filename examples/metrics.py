import asyncio
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest

from postbus import Bus, event
from postbus.integrations.prometheus import BusCollector

bus = Bus("sqlite:///jobs.db")


@event("jobs.job.queued")
@dataclass(frozen=True)
class JobQueued:
    number: int


@bus.subscriber(JobQueued)
async def work(event: JobQueued) -> None:
    pass


async def main() -> None:
    # --8<-- [start:registry]
    registry = CollectorRegistry()  # or prometheus_client.REGISTRY
    registry.register(BusCollector(bus))
    # --8<-- [end:registry]
    async with bus:
        await bus.publish_many([JobQueued(number) for number in range(3)])
        await bus.drain()
        text = await asyncio.to_thread(generate_latest, registry)
    for line in text.decode().splitlines():
        if line.startswith(('postbus_deliveries_total{outcome="ok"', "postbus_dead_letters{")):
            print(line)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# postbus_deliveries_total{outcome="ok",subscription="work",topic="jobs.job"} 3.0
# postbus_dead_letters{subscription="work"} 0.0
