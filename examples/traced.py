import asyncio
from dataclasses import dataclass

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from postbus import Bus, event
from postbus.integrations.opentelemetry import tracing

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))

# --8<-- [start:bus]
URL = "memory://"
bus = Bus(URL, middleware=tracing(URL, tracer_provider=provider))
# --8<-- [end:bus]


@event("jobs.job.queued")
@dataclass(frozen=True)
class JobQueued:
    number: int


@bus.subscriber(JobQueued)
async def work(event: JobQueued) -> None:
    pass


async def main() -> None:
    async with bus:
        await bus.publish(JobQueued(1))
        await bus.drain()
    spans = exporter.get_finished_spans()
    print([span.name for span in spans], len({span.context.trace_id for span in spans}))


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# ['publish jobs.job', 'process jobs.job'] 1
