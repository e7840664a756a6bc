import asyncio

from modules import orders, payments
from postbus import Bus

bus = Bus.from_env(url="memory://")  # POSTBUS_URL and its kin win over what is given here
bus.include(orders.router)
bus.include(payments.router)


async def main() -> None:
    async with bus:
        await bus.publish(orders.OrderPlaced("o-1", 4200))
        await bus.drain()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# order o-1 is paid
