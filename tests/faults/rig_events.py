"""The rig's event, without its program."""

from __future__ import annotations

from dataclasses import dataclass

from postbus import event


@event("rig.thing.happened", key="key")
@dataclass(frozen=True)
class Happened:
    """`do` says what its subscribers do, for `seconds`."""

    number: int
    key: str = "k"
    do: str = "work"
    seconds: float = 0.0
