"""One hot topic in several logs: its events say how many, and a subscription takes them all in order."""

import asyncio
from dataclasses import dataclass

from postbus import Bus, event

bus = Bus("memory://?codec=msgpack")
received: dict[str, list[str]] = {}


# --8<-- [start:partitions]
@event("orders.order.placed", key="order_id", partitions=6)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int


@event("orders.order.shipped", key="order_id", partitions=6)  # all events of a topic say the same
@dataclass(frozen=True)
class OrderShipped:
    order_id: str


# --8<-- [end:partitions]
@bus.subscriber(OrderPlaced, OrderShipped, ordered=True)
async def follow(happened: OrderPlaced | OrderShipped) -> None:
    received.setdefault(happened.order_id, []).append(type(happened).__name__)


async def main() -> None:
    async with bus:
        placed = [await bus.publish(OrderPlaced(f"o-{number}", 100)) for number in range(1, 4)]
        shipped = [await bus.publish(OrderShipped(f"o-{number}")) for number in range(1, 4)]
        print({envelope.topic for envelope in placed + shipped})
        print([envelope.partition for envelope in placed] == [envelope.partition for envelope in shipped])
        await bus.drain(timeout=10)
        print(received["o-1"])


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# {'orders.order'}
# True
# ['OrderPlaced', 'OrderShipped']
