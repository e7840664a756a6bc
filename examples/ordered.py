import asyncio
from collections import defaultdict
from dataclasses import dataclass

from postbus import Bus, Retry, event


@event("accounts.account.booked", key="account")
@dataclass(frozen=True)
class Booked:
    account: str
    number: int


bus = Bus("memory://")
seen: dict[str, list[int]] = defaultdict(list)
unlucky = {("a", 2)}


# --8<-- [start:ordered]
@bus.subscriber(Booked, name="statements", ordered=True, retry=Retry(delay=0.01))
async def write_statement(event: Booked) -> None:
    if (event.account, event.number) in unlucky:
        unlucky.remove((event.account, event.number))
        raise OSError("the printer is out of paper")  # account a waits for its retry; account b goes on
    seen[event.account].append(event.number)


# --8<-- [end:ordered]


async def main() -> None:
    async with bus:
        for number in range(1, 6):
            for account in ("a", "b"):
                await bus.publish(Booked(account, number))
        await bus.drain()
    print(dict(sorted(seen.items())))


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# {'a': [1, 2, 3, 4, 5], 'b': [1, 2, 3, 4, 5]}
