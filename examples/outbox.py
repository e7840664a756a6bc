import asyncio
import sqlite3
from dataclasses import dataclass

from postbus import Bus, event

# In production the first is redis://..., and the second the database that the application keeps its tables in.
bus = Bus("sqlite:///events.db", outbox="sqlite:///shop.db")


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@bus.subscriber(OrderPlaced)
async def send_receipt(event: OrderPlaced) -> None:
    print(f"receipt for {event.order_id}")


# --8<-- [start:place]
async def place_order(database: sqlite3.Connection, order_id: str) -> None:
    with bus.transaction(database) as tx:
        tx.execute("INSERT INTO orders VALUES (?)", [order_id])
        await bus.publish(OrderPlaced(order_id), within=tx)
    # The order and its event are committed together, though the event's transport is elsewhere, and may be down.


# --8<-- [end:place]


async def main() -> None:
    database = sqlite3.connect("shop.db")
    database.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)")
    assert bus.outbox is not None  # it was given one
    async with bus:
        await place_order(database, "o-1")
        try:
            await place_order(database, "o-1")
        except sqlite3.IntegrityError:
            print("o-1 was placed before")
        # --8<-- [start:stats]
        stands = await bus.outbox.stats()
        print(f"{stands.pending} waits in the outbox, {len(stands.relays)} relays run")
        # --8<-- [end:stats]
        async with bus.worker():  # relays beside its subscribers
            await bus.drain()
        print(f"{(await bus.outbox.stats()).pending} waits in the outbox")
    database.close()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# o-1 was placed before
# 1 waits in the outbox, 0 relays run
# receipt for o-1
# 0 waits in the outbox
