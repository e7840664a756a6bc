import asyncio
from dataclasses import dataclass

from postbus import Bus, Context, RawEvent, event


@event("users.user.registered", key="user_id")
@dataclass(frozen=True)
class UserRegistered:
    user_id: str
    email: str


@event("users.user.welcomed", key="user_id")
@dataclass(frozen=True)
class UserWelcomed:
    user_id: str


bus = Bus("memory://")


# --8<-- [start:on]
@bus.on(UserRegistered)
def open_account(event: UserRegistered) -> None:
    print(f"account for {event.user_id}")


@bus.on  # without arguments, the annotation says which event it takes
async def greet(event: UserRegistered, context: Context) -> None:
    print(f"hello {event.email}")
    await context.publish(UserWelcomed(event.user_id))  # sent only if the outer publish succeeds


@bus.on("users.>")  # every event whose name begins with `users.`
def audit(event: RawEvent) -> None:
    print(f"audit: {event.name}")


@bus.on(UserRegistered, after_commit=True)  # when the event is stored; never after a failure
def count(event: UserRegistered) -> None:
    print("counted")


# --8<-- [end:on]


async def errors() -> None:
    # --8<-- [start:errors]
    def refuse(event: UserRegistered) -> None:
        raise ValueError("no more seats")

    handle = bus.add_handler(refuse, UserRegistered)
    try:
        await bus.publish(UserRegistered("u-2", "bob@example.com"))
    except ValueError as error:
        print(f"not published: {error}")

    try:
        await bus.notify(UserRegistered("u-3", "eve@example.com"))  # runs all handlers, then raises
    except* ValueError as group:
        print(f"{len(group.exceptions)} handler failed")
    handle.remove()
    # --8<-- [end:errors]


async def main() -> None:
    async with bus:
        # --8<-- [start:publish]
        envelope = await bus.publish(UserRegistered("u-1", "ann@example.com"))
        print(f"published {envelope.name} with key {envelope.key}")
        # --8<-- [end:publish]
        print("--")
        await errors()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# account for u-1
# hello ann@example.com
# audit: users.user.welcomed
# audit: users.user.registered
# counted
# published users.user.registered with key u-1
# --
# account for u-2
# hello bob@example.com
# audit: users.user.welcomed
# audit: users.user.registered
# not published: no more seats
# account for u-3
# hello eve@example.com
# audit: users.user.welcomed
# audit: users.user.registered
# 1 handler failed
