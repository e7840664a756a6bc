"""How a subscription stands at its topics, asked in pieces: no script holds the server for long."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...transport import SubscriptionStats
from .line import Line, said
from .registry import Keys, Record
from .scripts import STATS, UNREAD

__all__ = ["Standing", "standing", "stats_of"]

# Calls of a thousand unread entries each; of what is behind them the server's own count is taken.
_LOOKS = 5


class Standing(msgspec.Struct):
    """At one topic.  Ages and spans are in ms, -1 for none."""

    backlog: int
    in_flight: int
    scheduled: int
    retrying: int
    dead: int
    oldest: int
    next_due: int
    parked: int
    parked_events: int
    trimmed: int
    waiting: int


async def standing(line: Line, keys: Keys, record: Record, topic: str) -> Standing:
    """Ask one topic.

    The unread first: what is read meanwhile is then seen twice, and never in no place at all.
    """
    stream, number = keys.stream(topic), record.number
    replies = await line.run_each((UNREAD, [stream], [number, ""]), (STATS, [stream], [number]))
    (behind, *unread), figures = (said(reply, line.door) for reply in replies)
    looks = [unread]
    while behind and len(looks) < _LOOKS:
        behind, *unread = said(await line.run(UNREAD, [stream], [number, behind]), line.door)
        looks.append(unread)
    if len(looks) > 1:
        figures = said(await line.run(STATS, [stream], [number]), line.door)
    *figures, lag = figures
    found = Standing(*figures)
    ready = sum(look[0] for look in looks)
    found.backlog += max(ready, lag) if behind else ready
    for _, scheduled, oldest, next_due in looks:
        found.scheduled += scheduled
        found.oldest = max(found.oldest, oldest)
        found.next_due = min((due for due in (found.next_due, next_due) if due >= 0), default=-1)
    return found


def stats_of(record: Record, standings: Sequence[Standing], workers: int) -> SubscriptionStats:
    """At all topics together."""
    oldest = max((one.oldest for one in standings), default=-1)
    next_due = min((one.next_due for one in standings if one.next_due >= 0), default=-1)
    return SubscriptionStats(
        name=record.name,
        backlog=sum(one.backlog for one in standings),
        in_flight=sum(one.in_flight for one in standings),
        scheduled=sum(one.scheduled for one in standings),
        retrying=sum(one.retrying for one in standings),
        dead=sum(one.dead for one in standings),
        oldest_age=None if oldest < 0 else oldest / 1000,
        next_due=None if next_due < 0 else next_due / 1000,
        parked=sum(one.parked for one in standings),
        parked_events=sum(one.parked_events for one in standings),
        trimmed=sum(one.trimmed for one in standings),
        waiting=sum(one.waiting for one in standings),
        workers=workers,
        paused=record.paused,
    )
