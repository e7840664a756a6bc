"""The rig's event, without its program."""

from __future__ import annotations

import os
from dataclasses import dataclass

from postbus import event


@event("rig.thing.happened", key="key", partitions=int(os.environ.get("RIG_PARTITIONS", "1")))
@dataclass(frozen=True)
class Happened:
    """`do` says what its subscribers do, for `seconds`."""

    number: int
    key: str = "k"
    do: str = "work"
    seconds: float = 0.0


@event("rig.block.asked", key="key")
@dataclass(frozen=True)
class Blocked:
    """`do` says how a thread or process is kept busy, for `seconds`."""

    number: int
    key: str = "k"
    do: str = "sleep"
    seconds: float = 0.0
