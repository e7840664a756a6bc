import asyncio
import sqlite3
from dataclasses import dataclass

from postbus import Bus, DeliveryContext, Retry, event


@event("payments.payment.received", key="order_id")
@dataclass(frozen=True)
class PaymentReceived:
    order_id: str
    cents: int


bus = Bus("memory://")
crashes = [OSError("the line broke after the commit")]


# --8<-- [start:inbox]
@bus.subscriber(PaymentReceived, retry=Retry(delay=0.01))
async def credit(event: PaymentReceived, context: DeliveryContext) -> None:
    with database:  # one transaction for the effect and the mark that it is done
        done = database.execute("INSERT OR IGNORE INTO done VALUES (?)", [context.idempotency_key])
        if done.rowcount:
            database.execute("UPDATE account SET cents = cents + ?", [event.cents])
    if crashes:
        raise crashes.pop()  # the subscriber runs again, and credits nothing


# --8<-- [end:inbox]

database = sqlite3.connect(":memory:")


async def main() -> None:
    database.executescript(
        "CREATE TABLE done (key TEXT PRIMARY KEY);CREATE TABLE account (cents INTEGER);INSERT INTO account VALUES (0);"
    )
    async with bus:
        await bus.publish(PaymentReceived("o-1", 4200))
        await bus.drain()
    print(database.execute("SELECT cents FROM account").fetchone()[0])
    database.close()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# 4200
