from dataclasses import dataclass

from postbus import Bus, event

bus = Bus("sqlite:///shop.db")


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int


@bus.on(OrderPlaced)  # runs inside publish(): an error here reaches the publisher, and nothing is sent
def reserve_stock(event: OrderPlaced) -> None:
    print(f"reserved stock for {event.order_id}")


@bus.subscriber(OrderPlaced)  # runs in a worker: retried, and kept as a dead letter when all tries fail
async def send_receipt(event: OrderPlaced) -> None:
    print(f"receipt for {event.order_id}: {event.amount / 100:.2f} EUR")


if __name__ == "__main__":
    with bus:
        bus.publish_sync(OrderPlaced("o-1", 4200))

# Output:
# reserved stock for o-1
