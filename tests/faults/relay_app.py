"""The program whose relays the fault tests torment: `postbus relay relay_app:bus`, with RELAY_URL and the like set."""

from __future__ import annotations

import os

from rig_events import Happened

from postbus import Bus


def make() -> Bus:
    made = Bus(
        os.environ["RELAY_URL"],
        outbox=os.environ["RELAY_OUTBOX"],
        namespace=os.environ["RELAY_NAMESPACE"],
        lease=float(os.environ.get("RELAY_LEASE", "0.5")),
        publish_timeout=2,
    )

    @made.subscriber(Happened, name="ordered", ordered=True)
    async def ordered(happened: Happened) -> None:
        raise AssertionError("the tests look at what is stored, and run their own")

    return made


if "RELAY_URL" in os.environ:
    bus = make()
