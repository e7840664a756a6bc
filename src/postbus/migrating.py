"""What a transport with tables can say of them, for people who make tables themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

__all__ = ["Migrating"]


@runtime_checkable
class Migrating(Protocol):
    """A transport whose tables can be made before it is opened.  Opening makes what is missing, too."""

    def sql(self) -> str:
        """The statements that make everything, from nothing to the format of this version."""
        ...

    async def missing(self) -> Sequence[str]:
        """What is not there yet, by name; nothing when opening would have nothing to make.  Changes nothing."""
        ...

    async def apply(self, told: Callable[[str], None]) -> None:
        """Make what is missing; safe from several processes at once.  `told` hears of each step that is done."""
        ...
