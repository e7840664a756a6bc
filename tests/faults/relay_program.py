"""A relay in a process of its own, which may be told to die at the worst moment: `relay_program.py BATCH [FORGETS]`.

With FORGETS it is killed when it is about to forget, for the so-manieth time, what the target has already.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from relay_app import bus


async def main(batch: int, forgets: int | None) -> None:
    async with bus:
        assert bus.outbox is not None
        if forgets is not None:
            die_before_forgetting(bus.outbox.transport, forgets)
        relay = bus.make_relay(batch=batch)
        await relay.start()
        await relay.ended()


def die_before_forgetting(store: object, times: int) -> None:
    forget, left = store.forwarded, iter(range(times - 1))  # type: ignore[attr-defined]

    async def forwarded(subscription: str, numbers: Sequence[int]) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        await forget(subscription, numbers)

    store.forwarded = forwarded  # type: ignore[attr-defined]


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
