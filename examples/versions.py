import asyncio
from dataclasses import dataclass
from typing import Any

from postbus import Bus, event

bus = Bus("sqlite:///versions.db")


@event("users.user.renamed", key="user_id")
@dataclass(frozen=True)
class UserRenamedThen:
    user_id: str
    name: str


# --8<-- [start:upcaster]
@event("users.user.renamed", key="user_id", version=2)
@dataclass(frozen=True)
class UserRenamed:
    user_id: str
    given_name: str
    family_name: str


@bus.upcaster(UserRenamed, from_version=1)
def split_name(data: dict[str, Any]) -> dict[str, Any]:
    given, _, family = data.pop("name").partition(" ")
    return {**data, "given_name": given, "family_name": family}


# --8<-- [end:upcaster]


@bus.subscriber(UserRenamed)
async def greet(event: UserRenamed) -> None:
    print(f"dear {event.given_name} {event.family_name}")


async def main() -> None:
    async with bus, Bus("sqlite:///versions.db") as last_year:
        await last_year.publish(UserRenamedThen("u-1", "Ada Lovelace"))
        await bus.publish(UserRenamed("u-2", "Grace", "Hopper"))
        await bus.drain(timeout=10)


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# dear Ada Lovelace
# dear Grace Hopper
