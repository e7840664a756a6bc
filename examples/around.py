import asyncio
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from postbus import Bus, DeliveryContext, Next, Publishing, around_delivery, around_publish, event

# --8<-- [start:middleware]
tenant: ContextVar[str] = ContextVar("tenant")


@around_publish
def send_tenant(publishing: Publishing) -> Iterator[None]:
    publishing.headers["tenant"] = tenant.get()
    yield


@around_delivery
async def receive_tenant(event: object, context: DeliveryContext, call_next: Next) -> None:
    tenant.set(context.headers["tenant"])  # seen by this delivery only
    await call_next()


bus = Bus("memory://?codec=msgpack", middleware=[send_tenant, receive_tenant])
# --8<-- [end:middleware]


@event("reports.report.requested")
@dataclass(frozen=True)
class ReportRequested:
    title: str


@bus.subscriber(ReportRequested, concurrency=1)
async def write_report(event: ReportRequested) -> None:
    print(f"{event.title} for {tenant.get()}")


async def main() -> None:
    async with bus:
        for name in ("ann", "bob"):
            tenant.set(name)
            await bus.publish(ReportRequested("sales"))
        await bus.drain()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# sales for ann
# sales for bob
