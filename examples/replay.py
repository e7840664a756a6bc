import asyncio
from dataclasses import dataclass

from postbus import Bus, Retry, event

bus = Bus("sqlite:///replay.db")
down = True


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@bus.subscriber(OrderPlaced, name="receipts", retry=Retry(attempts=2, delay=0.01))
async def send_receipt(event: OrderPlaced) -> None:
    if down:
        raise ConnectionError("the mail server is down")
    print(f"receipt for {event.order_id}")


# --8<-- [start:replay]
async def replay_what_the_outage_buried() -> int:
    """Replay what failed because of the mail server, and show what else is dead."""
    replayed = await bus.dead.replay("receipts", error="ConnectionError")
    async for letter in bus.dead.each("receipts"):
        print(f"still dead: {letter.envelope.name} {letter.envelope.key}: {letter.reason}\n{letter.error}")
    return replayed


# --8<-- [end:replay]


async def main() -> None:
    global down  # noqa: PLW0603 - stands for a server that comes back
    async with bus:
        for number in (1, 2, 3):
            await bus.publish(OrderPlaced(f"o-{number}"))
        await bus.drain()
        print(f"{await bus.dead.count('receipts')} dead letters")
        down = False
        print(f"{await replay_what_the_outage_buried()} replayed")
        await bus.drain(concurrency=1)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# 3 dead letters
# 3 replayed
# receipt for o-1
# receipt for o-2
# receipt for o-3
