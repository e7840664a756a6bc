import asyncio
from dataclasses import dataclass

from postbus import Bus, event
from postbus.signing import Signing


@event("payments.payment.received", key="order_id")
@dataclass(frozen=True)
class PaymentReceived:
    order_id: str
    cents: int


# --8<-- [start:signing]
secrets = {"2026-02": "from your vault", "2026-01": "the key before, still accepted"}
bus = Bus("sqlite:///signed.db", hooks=[Signing(secrets)])
# --8<-- [end:signing]


@bus.subscriber(PaymentReceived)
async def book(event: PaymentReceived) -> None:
    print(f"booked {event.cents}")


async def main() -> None:
    async with bus, Bus("sqlite:///signed.db") as somebody_else:
        await bus.publish(PaymentReceived("o-1", 4200))
        await somebody_else.publish(PaymentReceived("o-2", 1_000_000))
        await bus.drain()
        for letter in await bus.dead.list("book"):
            print(letter.envelope.key, letter.reason.partition(", on event")[0])


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# booked 4200
# o-2 undecodable: bad signature: it is missing
