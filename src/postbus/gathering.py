"""A publish while its handlers run: what it will send, and what the publishes inside its handlers add to that."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from .errors import PublishFailed
from .joining import Joined
from .transaction import After
from .transport import Outgoing

__all__ = ["Gathering", "current", "gather", "joined", "outer_of"]

# Publishes inside handlers of publishes inside handlers: deeper than this is a circle.
_DEPTH = 16


class Gathering:
    """One publish of a bus.

    Attributes:
        owner: the bus's publisher.
        within: what was given as the transaction it happens in.
        joined: that transaction; of a publish inside another, the other's.
        depth: how many publishes it is inside of.
        items: what it will send.
        after: events whose after-commit handlers are to run.
        open: its handlers still run.
    """

    __slots__ = ("after", "depth", "items", "joined", "open", "owner", "within")

    def __init__(self, owner: object, within: Any, depth: int) -> None:
        self.owner = owner
        self.within = within
        self.depth = depth
        self.items: list[Outgoing] = []
        self.after: list[After] = []
        self.joined: Joined | None = None
        self.open = True


current: ContextVar[Gathering | None] = ContextVar("postbus_gathering", default=None)


def outer_of(owner: object, within: Any) -> Gathering | None:
    """The publish whose handler we are in, if a publish of this owner is to be part of it.

    Raises:
        PublishFailed: when publishes are nested too deep.
    """
    outer = current.get()
    if outer is None or outer.owner is not owner or not outer.open or within not in (None, outer.within):
        return None
    if outer.depth >= _DEPTH:
        raise PublishFailed(
            f"publishes nested more than {_DEPTH} deep: a handler publishes what leads back to itself; make the "
            f"reaction a subscriber, which runs after this publish"
        )
    return outer


def gather(owner: object, outer: Gathering | None, within: Any) -> Gathering:
    """A new publish, inside `outer` or by itself."""
    if outer is None:
        return Gathering(owner, within, 0)
    mine = Gathering(owner, outer.within, outer.depth + 1)
    mine.joined = outer.joined
    return mine


def joined(outer: Gathering | None, mine: Gathering) -> bool:
    """Hand what gathered to the outer publish, so that it is sent only if that one succeeds.

    Not possible when the outer one has left already: we were a task that its handler started and did not await.
    """
    if outer is None or not outer.open:
        return False
    outer.items.extend(mine.items)
    outer.after.extend(mine.after)
    return True
