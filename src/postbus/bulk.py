"""What an operator does to many at once: in calls of a bounded size, each told, and noted in the trail as one act."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

__all__ = ["CHUNK", "by_chunks", "query_text"]

# What one call of the transport moves, or gives: enough to be quick, few enough to hold no lock for long.
CHUNK = 200
# Ids that the trail of actions names; there may be thousands.
_NAMED = 20

T = TypeVar("T")


async def by_chunks(
    act: Callable[[str, Sequence[T]], Awaitable[int]],
    subscription: str,
    chosen: Sequence[T],
    progress: Callable[[int], None] | None,
) -> int:
    """Do it to all that were chosen before it began; return how many it was done to.

    Args:
        act: given a subscription and some of them, returns to how many of those it was done.
        subscription: whose.
        chosen: all of them: what comes back meanwhile must not be taken twice.
        progress: told the number done after each chunk.
    """
    done = 0
    for start in range(0, len(chosen), CHUNK):
        done += await act(subscription, chosen[start : start + CHUNK])
        if progress is not None:
            progress(done)
    return done


def query_text(query: Mapping[str, Any]) -> str:
    """What was asked for, in words for the trail: the first of its `ids`, and every other field that says something."""
    ids = query.get("ids")
    named = "" if ids is None else ", ".join(str(id_) for id_ in ids[:_NAMED]) + (", ..." if ids[_NAMED:] else "")
    asked = ", ".join(f"{name}={value!r}" for name, value in query.items() if name != "ids" and value is not None)
    return "; ".join(text for text in (named, asked) if text) or "all"
