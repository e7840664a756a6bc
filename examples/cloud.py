import asyncio
import json
from dataclasses import dataclass

from postbus import Bus, RawEvent, event
from postbus.cloudevents import from_cloudevent, to_cloudevent

bus = Bus("memory://?codec=json", codec="json")


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@bus.subscriber("parcels.parcel.delivered")
async def close_order(event: RawEvent) -> None:
    print(event.name, event.payload)


# --8<-- [start:cloudevents]
async def place(order: OrderPlaced) -> str:
    envelope = await bus.publish(order)
    return json.dumps(to_cloudevent(envelope, source="/shop"))  # for a webhook, say


async def receive(body: bytes) -> None:
    envelope = from_cloudevent(body)
    event = bus.catalog.open(envelope, None)
    await bus.publish(event, id=envelope.id, headers=envelope.headers)  # received twice, it is stored once


# --8<-- [end:cloudevents]


async def main() -> None:
    async with bus:
        sent = json.loads(await place(OrderPlaced("o-1")))
        print(sent["type"], sent["subject"], sent["data"])
        incoming = {
            "specversion": "1.0",
            "id": "4f6c1d4e-5b9c-4d0e-9a51-3f1a0c2b7d10",
            "source": "https://parcels.example",
            "type": "parcels.parcel.delivered",
            "subject": "p-7",
            "data": {"order_id": "o-1"},
        }
        for _ in range(2):
            await receive(json.dumps(incoming).encode())
        await bus.drain()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# orders.order.placed o-1 {'order_id': 'o-1'}
# parcels.parcel.delivered {'order_id': 'o-1'}
