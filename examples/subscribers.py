import asyncio
from dataclasses import dataclass

from postbus import Bus, DeliveryContext, Reject, Retry, Snooze, event


@event("invoices.invoice.issued", key="number")
@dataclass(frozen=True)
class InvoiceIssued:
    number: str
    address: str


class MailServerBusy(Exception):
    pass


bus = Bus("memory://")
closed = {"i-3"}


# --8<-- [start:subscriber]
@bus.subscriber(
    InvoiceIssued,
    name="invoice-mails",
    retry=Retry(attempts=4, delay=0.01, multiplier=2, max_delay=10),
    timeout=30,
    concurrency=20,
)
async def mail_invoice(event: InvoiceIssued, context: DeliveryContext) -> None:
    if "@" not in event.address:
        raise Reject(f"{event.address!r} is no address")  # a dead letter now: trying again would not help
    if event.number in closed:
        closed.remove(event.number)
        raise Snooze(0.01)  # again later, and no attempt is spent
    if event.number == "i-2" and context.attempt < 3:
        raise MailServerBusy  # any other error is a failed attempt
    print(f"{event.number} mailed at attempt {context.attempt}")


# --8<-- [end:subscriber]


async def main() -> None:
    async with bus:
        await bus.publish(InvoiceIssued("i-1", "nowhere"))
        await bus.publish(InvoiceIssued("i-2", "ann@example.com"))
        await bus.drain()
        await bus.publish(InvoiceIssued("i-3", "bob@example.com"))
        await bus.drain()
        for letter in await bus.dead.list("invoice-mails"):
            print(f"dead: {letter.envelope.key}, {letter.reason}")


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# i-2 mailed at attempt 3
# i-3 mailed at attempt 1
# dead: i-1, 'nowhere' is no address
