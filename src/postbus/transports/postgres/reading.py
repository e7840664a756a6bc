"""What is read for people to see: the statements, and what their rows mean."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from ...delivery import DeadLetter
from ...transport import StoredEvent, SubscriptionStats, WorkerInfo
from .line import Row
from .wire import COLUMNS, failure_of, salvaged

__all__ = ["EVENTS", "LETTERS", "STATES", "STATS", "SUBSCRIPTIONS", "WORKERS", "letter_of", "stats_of", "stored_of"]

SUBSCRIPTIONS = (
    "SELECT public, spec::text, paused, declared_at FROM postbus.subscription WHERE name IS NOT NULL ORDER BY name"
)

WORKERS = "SELECT info FROM postbus.worker WHERE until > clock_timestamp() ORDER BY owner"

# What a dead worker holds is backlog, though nobody noticed yet.  Each state is counted by the index that its rows are
# claimed by, for the table is full of rows that are gone; letters by an index alone, for there may be very many.
STATS = """
SELECT s.name, s.paused, r.ready + n.due + l.due + w.due + o.ended, o.held, n.scheduled + l.scheduled + w.scheduled,
    l.retrying, l.next_due, x.dead, x.parked, p.events, p.later, w.due,
    extract(epoch FROM s.now)::double precision - (
        SELECT e.micros FROM postbus.event e WHERE e.seq = least(r.first, n.first, l.first, w.first, o.first)
    ) / 1e6::double precision AS age
FROM (SELECT *, clock_timestamp() AS now FROM postbus.subscription) s
CROSS JOIN LATERAL (
    SELECT count(*) AS ready, min(d.seq) AS first
    FROM postbus.delivery d WHERE d.subscription = s.id AND d.state IN (1, 4)
) r
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE coalesce(d.due <= s.now, true)) AS due,
        count(*) FILTER (WHERE d.due > s.now AND d.delayed) AS scheduled,
        min(d.seq) FILTER (WHERE coalesce(d.due <= s.now, true)) AS first
    FROM postbus.delivery d WHERE d.subscription = s.id AND d.state = 0
) n
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE coalesce(d.due <= s.now, true)) AS due,
        count(*) FILTER (WHERE d.due > s.now AND d.delayed) AS scheduled,
        count(*) FILTER (WHERE d.due > s.now AND NOT d.delayed) AS retrying,
        extract(epoch FROM min(d.due) FILTER (WHERE d.due > s.now) - s.now)::double precision AS next_due,
        min(d.seq) FILTER (WHERE coalesce(d.due <= s.now, true)) AS first
    FROM postbus.delivery d WHERE d.subscription = s.id AND d.state = 3
) l
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE coalesce(d.due <= s.now, true)) AS due,
        count(*) FILTER (WHERE d.due > s.now AND d.delayed) AS scheduled,
        min(d.seq) FILTER (WHERE coalesce(d.due <= s.now, true)) AS first
    FROM postbus.delivery d WHERE d.subscription = s.id AND d.state = 2
) w
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE d.until <= s.now) AS ended, count(*) FILTER (WHERE d.until > s.now) AS held,
        min(d.seq) AS first
    FROM postbus.delivery d WHERE d.subscription = s.id AND d.state = 5
) o
CROSS JOIN LATERAL (
    SELECT (SELECT count(*) FROM postbus.dead x WHERE x.subscription = s.id) AS dead,
        (SELECT count(*) FROM postbus.dead x WHERE x.subscription = s.id AND x.lane IS NOT NULL) AS parked
) x
CROSS JOIN LATERAL (
    SELECT count(*) AS events, count(*) FILTER (WHERE d.due > s.now) AS later
    FROM postbus.dead x JOIN postbus.delivery d ON d.subscription = s.id AND d.lane = x.lane AND d.state = 2
    WHERE x.subscription = s.id AND x.lane IS NOT NULL
) p
WHERE s.name IS NOT NULL AND (%s::text[] IS NULL OR s.name = ANY (%s::text[]))
ORDER BY s.name
"""

EVENTS = "SELECT e.seq, COLUMNS FROM postbus.stored e WHERE true ORDER BY e.seq DESC LIMIT %s".replace(
    "COLUMNS", COLUMNS
)

STATES = """
SELECT d.seq, s.name, CASE
    WHEN d.state = 5 AND d.until > clock_timestamp() THEN 'running'
    WHEN d.state IN (0, 3) AND d.due > clock_timestamp() THEN CASE WHEN d.delayed THEN 'scheduled' ELSE 'retrying' END
    WHEN d.state = 2 THEN 'waiting' ELSE 'ready' END
FROM postbus.delivery d JOIN postbus.subscription s ON s.id = d.subscription
WHERE d.seq = ANY (%s::bigint[]) AND s.name IS NOT NULL
UNION ALL
SELECT x.seq, s.name, 'dead' FROM postbus.dead x JOIN postbus.subscription s ON s.id = x.subscription
WHERE x.seq = ANY (%s::bigint[]) AND s.name IS NOT NULL
"""

LETTERS = """
SELECT d.id, s.name, d.attempts, d.reason, d.failure::text, d.buried_at, COLUMNS
FROM postbus.dead d JOIN postbus.event e ON e.seq = d.seq JOIN postbus.subscription s ON s.id = d.subscription
WHERE true ORDER BY d.id LIMIT %s
""".replace("COLUMNS", COLUMNS)


def stats_of(row: Row, workers: Sequence[WorkerInfo]) -> SubscriptionStats:
    """One row of `STATS`."""
    name, paused, backlog, in_flight, scheduled, retrying, next_due, dead, parked, *more = row
    parked_events, parked_later, waiting, age = more
    return SubscriptionStats(
        name=name,
        backlog=backlog - (parked_events - parked_later),
        in_flight=in_flight,
        scheduled=scheduled - parked_later,
        retrying=retrying,
        dead=dead,
        oldest_age=None if age is None else max(0.0, age),
        next_due=next_due,
        parked=parked,
        parked_events=parked_events,
        workers=sum(name in worker.subscriptions for worker in workers),
        paused=paused,
        waiting=waiting - (parked_events - parked_later),
    )


def stored_of(row: Row, states: dict[str, str]) -> StoredEvent:
    """One row of `EVENTS`, and where it stands."""
    return StoredEvent(envelope=salvaged(row[1:]), cursor=str(row[0]), states=states)


def letter_of(row: Row) -> DeadLetter:
    """One row of `LETTERS`."""
    id_, subscription, attempts, reason, failed, buried_at, *columns = row
    failure = failure_of(failed)
    error = "" if failure is None else str(failure)
    moment = buried_at.astimezone(UTC)
    return DeadLetter(id_, salvaged(columns), subscription, attempts, reason, error, moment, failure)
