import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import attrs
import msgspec
import pydantic

from postbus import Bus, RawEvent, event


# --8<-- [start:kinds]
@event("shop.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: UUID
    total: Decimal
    placed_at: datetime


@event("shop.order.paid", key="order_id")
class OrderPaid(msgspec.Struct, frozen=True):
    order_id: UUID


@event("shop.order.shipped", key="order_id")
@attrs.frozen
class OrderShipped:
    order_id: UUID
    parcels: list[str]


@event("shop.order.returned", key="order_id")
class OrderReturned(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    order_id: UUID
    why: str | None = None


# --8<-- [end:kinds]

bus = Bus("memory://?codec=msgpack")
order_id = UUID("019c8b2e-0000-7000-8000-000000000001")


@bus.subscriber(OrderPlaced, OrderPaid, OrderShipped, OrderReturned, name="log")
async def log(event: OrderPlaced | OrderPaid | OrderShipped | OrderReturned) -> None:
    print(type(event).__name__, event.order_id == order_id)


# --8<-- [start:raw]
@bus.subscriber("warehouse.*.moved", name="movements")
async def note(event: RawEvent) -> None:
    print(event.name, event.payload, event.key)


async def move() -> None:
    await bus.publish(RawEvent("warehouse.pallet.moved", {"to": "B-12"}, key="p-7"))


# --8<-- [end:raw]


async def main() -> None:
    async with bus:
        await bus.publish(OrderPlaced(order_id, Decimal("42.00"), datetime.now(UTC)))
        await bus.publish(OrderPaid(order_id))
        await bus.publish(OrderShipped(order_id, ["a", "b"]))
        await bus.publish(OrderReturned(order_id=order_id))
        await bus.drain(only=["log"])
        await move()
        await bus.drain()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# OrderPlaced True
# OrderPaid True
# OrderShipped True
# OrderReturned True
# warehouse.pallet.moved {'to': 'B-12'} p-7
