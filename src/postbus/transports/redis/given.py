"""What this process was given: so that what it was given without hearing of it can be told apart and handed back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakSet

import msgspec

from ...errors import TransportError
from .line import Line
from .registry import Keys
from .scripts import RECALL

__all__ = ["Batch", "Given"]


class Batch(msgspec.Struct, weakref=True, eq=False):
    """Deliveries of one claim.  Their receipts hold it: it goes when the last of them does."""

    owner: str
    subscription: int
    ids: list[tuple[str, bytes]]


class Given:
    """The batches that somebody still holds, and the claims whose answer was lost."""

    def __init__(self, line: Line, keys: Keys) -> None:
        self._line = line
        self._keys = keys
        self._batches: WeakSet[Batch] = WeakSet()
        self._asking: dict[int, int] = {}
        self._lost: set[tuple[int, str]] = set()

    def batch(self, owner: str, subscription: int) -> Batch:
        """A new one, still empty."""
        made = Batch(owner, subscription, [])
        self._batches.add(made)
        return made

    def lost(self, owner: str, subscription: int) -> None:
        """The answer to a claim was lost: it may have given something."""
        self._lost.add((subscription, owner))

    def missing(self, owner: str, subscription: int) -> bool:
        """Whether it may have been given something that it does not know of."""
        return (subscription, owner) in self._lost

    def begin(self, subscription: int) -> Callable[[], None]:
        """A claim is under way; call what is returned when its answer is known."""
        self._asking[subscription] = self._asking.get(subscription, 0) + 1

        def end() -> None:
            self._asking[subscription] -= 1
            if not self._asking[subscription]:
                del self._asking[subscription]

        return end

    async def recall(self, owner: str, subscription: int, topics: Sequence[str]) -> None:
        """Hand back what lost answers gave, unless another claim is under way, whose answer would be taken for lost."""
        if (subscription, owner) not in self._lost or subscription in self._asking:
            return
        end = self.begin(subscription)
        try:
            known: dict[str, list[bytes]] = {}
            for batch in self._batches:
                if (batch.subscription, batch.owner) == (subscription, owner):
                    for topic, entry in batch.ids:
                        known.setdefault(topic, []).append(entry)
            scripts = [
                (RECALL, [self._keys.stream(topic)], [subscription, owner, *known.get(topic, ())]) for topic in topics
            ]
            if scripts:
                replies = await self._line.run_each(*scripts)
                if any(isinstance(reply, TransportError) for reply in replies):  # one server of several: later
                    return
            self._lost.discard((subscription, owner))
        finally:
            end()
