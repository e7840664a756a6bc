import asyncio
import sqlite3
from dataclasses import dataclass

from postbus import Bus, DeliveryContext, Retry, event


@event("payments.payment.received", key="order_id")
@dataclass(frozen=True)
class PaymentReceived:
    order_id: str
    cents: int


@event("accounts.account.credited")
@dataclass(frozen=True)
class AccountCredited:
    cents: int


bus = Bus("sqlite:///account.db")
failures = [OSError("the process died before the commit, say")]


# --8<-- [start:transactional]
@bus.subscriber(PaymentReceived, transactional=True, retry=Retry(delay=0.01))
async def credit(event: PaymentReceived, context: DeliveryContext) -> None:
    database = context.tx_as(sqlite3.Connection)
    database.execute("UPDATE account SET cents = cents + ?", [event.cents])
    await context.publish(AccountCredited(event.cents))  # in the same transaction
    if failures:
        raise failures.pop()  # nothing of this run remains


# --8<-- [end:transactional]


@bus.subscriber(AccountCredited)
async def tell(event: AccountCredited) -> None:
    print(f"credited {event.cents}")


async def main() -> None:
    database = sqlite3.connect("account.db")
    database.executescript("CREATE TABLE account (cents INTEGER); INSERT INTO account VALUES (0);")
    async with bus:
        await bus.publish(PaymentReceived("o-1", 4200))
        await bus.drain()
    print(database.execute("SELECT cents FROM account").fetchone()[0])
    database.close()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# credited 4200
# 4200
