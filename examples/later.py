import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from postbus import Bus, event

bus = Bus("sqlite:///later.db")


@event("trials.trial.started", key="user_id")
@dataclass(frozen=True)
class TrialStarted:
    user_id: str


@bus.subscriber(TrialStarted)
async def remind(event: TrialStarted) -> None:
    print(f"remind {event.user_id}")


async def main() -> None:
    async with bus:
        # --8<-- [start:options]
        trial = TrialStarted("u-1")
        await bus.publish(trial, delay=timedelta(seconds=0.01))  # not before then
        await bus.publish(trial, at=datetime.now(UTC) + timedelta(days=14))
        await bus.publish(trial, expires=3600)  # a dead letter, if no worker had time for it within the hour

        request_id = uuid4()  # from the request, so that it is the same when the client asks again
        await bus.publish(trial, id=request_id)
        await bus.publish(trial, id=request_id)  # stored once
        # --8<-- [end:options]
        await bus.drain(timeout=5)
        stats = (await bus.stats())["remind"]
        print(f"{stats.scheduled} scheduled, due in {round((stats.next_due or 0) / 86400)} days")


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# remind u-1
# remind u-1
# remind u-1
# 1 scheduled, due in 14 days
