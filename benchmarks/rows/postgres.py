"""PostgreSQL."""

from __future__ import annotations

from ..harness import Row, aim, at_least, at_most, limit, ours, peer

__all__ = ["ROWS"]

_URL = "{postgres}"

_INSERT = "psycopg, INSERT of one row"
_CORE = "SQLAlchemy Core on psycopg, INSERT of one row through the session"
_CORE_ALONE = "the same through a connection, without a session"
_COMMITS = "commits/s"
_COST = "us an event"
_OF_FRESH = "% of the fresh rate"
_ROWS = "psycopg, an order and a row"
_COPY = "psycopg, COPY of 100"
_COPY_TWICE = "psycopg, COPY of 100 into each of two tables"
_RAW_COMMITS = "psycopg, BEGIN, INSERT and COMMIT"
_RAW_BOTH = "psycopg, COPY and SKIP LOCKED"
_RAW_LATENCY = "psycopg, NOTIFY and SKIP LOCKED"
_PGQUEUER = "pgqueuer"
_PROCRASTINATE = "procrastinate"

ROWS: tuple[Row, ...] = (
    Row(
        id="postgres-within",
        title="one event with one subscription inside an open psycopg transaction",
        needs=("postgres",),
        contenders=(
            limit(_INSERT, "postgres:insert", 8_000, url=_URL),
            ours("within:publish", 4_000, url=_URL),
        ),
        targets=(at_most(2.5, _COST, _INSERT), aim(1.8, _INSERT, metric=_COST, lower=True)),
        note="postbus also writes a delivery row for its one subscription, and remembers the id.",
    ),
    Row(
        id="postgres-session",
        title="the same through a SQLAlchemy session",
        needs=("postgres",),
        contenders=(
            limit(_CORE, "sqlalchemy:insert_in_session", 5_000, url=_URL),
            limit(_CORE_ALONE, "sqlalchemy:insert", 5_000, url=_URL),
            ours("within:publish_in_session", 4_000, url=_URL),
        ),
        targets=(at_most(1.7, _COST, _CORE), aim(1.3, _CORE, metric=_COST, lower=True)),
        note="Both insert through the session, in its open transaction: that is what a program with a session pays.",
    ),
    Row(
        id="postgres-writers",
        title="PostgreSQL, 16 writers committing an order and its event",
        needs=("postgres",),
        contenders=(
            limit(_ROWS, "postgres:writers", 40_000, url=_URL, writers=16),
            ours("within:writers", 32_000, url=_URL, writers=16),
        ),
        targets=(at_least(0.8, _ROWS, metric=_COMMITS), aim(0.9, _ROWS, metric=_COMMITS)),
        note="The raw writers insert a row of the event's size beside their order.",
    ),
    Row(
        id="postgres-writers-synced",
        title="the same writers where a commit waits a millisecond for its disk",
        needs=("postgres",),
        contenders=(
            limit(_ROWS, "postgres:writers", 20_000, url=_URL, writers=16, sync=1000),
            ours("within:writers", 16_000, url=_URL, writers=16, sync=1000),
        ),
        targets=(at_least(0.8, _ROWS, metric=_COMMITS), aim(0.9, _ROWS, metric=_COMMITS)),
        note="By PostgreSQL's own `commit_delay`: where a sync costs nothing, the processors are all that is compared.",
    ),
    Row(
        id="postgres-publish-many",
        title="PostgreSQL, `publish_many(100)`",
        needs=("postgres",),
        contenders=(
            limit(_COPY_TWICE, "postgres:copy", 40_000, url=_URL, batch=100, offered=1),
            limit(_COPY, "postgres:copy", 50_000, url=_URL, batch=100),
            ours("road:publish_many", 15_000, url=_URL, batch=100),
            peer(_PGQUEUER, "pgqueuer:publish_many", 15_000, url=_URL, batch=100),
        ),
        targets=(at_least(0.3, _COPY_TWICE), aim(0.6, _COPY_TWICE)),
        note="postbus stores two rows for each event, the event and its delivery: as many as the copy into two tables.",
    ),
    Row(
        id="postgres-both",
        title="PostgreSQL, publish and drain at once, two processes",
        needs=("postgres",),
        contenders=(
            limit(_RAW_BOTH, "postgres:both", 40_000, url=_URL),
            ours("road:both", 15_000, url=_URL),
            peer(_PGQUEUER, "pgqueuer:both", 8_000, url=_URL),
            peer(_PROCRASTINATE, "procrastinate:both", 1_000, url=_URL),
        ),
        targets=(at_least(1.5, _PGQUEUER), aim(4, _PGQUEUER)),
    ),
    Row(
        id="postgres-drain",
        title="PostgreSQL drain, one worker process, one coroutine subscriber, concurrency 100",
        needs=("postgres",),
        contenders=(
            limit("psycopg, SKIP LOCKED of 100", "postgres:drain", 50_000, url=_URL),
            ours("road:drain", 20_000, url=_URL),
            peer(_PGQUEUER, "pgqueuer:drain", 8_000, url=_URL),
        ),
    ),
    Row(
        id="postgres-latency",
        title="publish-to-start latency at 500/s, PostgreSQL, two processes",
        needs=("postgres",),
        contenders=(
            limit(_RAW_LATENCY, "postgres:latency", 1_500, url=_URL, per_second=500),
            ours("road:latency", 1_500, url=_URL, per_second=500),
            peer(_PGQUEUER, "pgqueuer:latency", 1_500, url=_URL, per_second=500),
            peer(_PROCRASTINATE, "procrastinate:latency", 500, url=_URL, per_second=100),
        ),
        targets=(at_most(1.5, "ms p50"), aim(0.7, metric="ms p50", lower=True)),
        note="procrastinate at 100/s: it does not keep up with 500.",
    ),
    Row(
        id="postgres-transactional",
        title="PostgreSQL, transactional subscriber (psycopg), one worker process, concurrency 20",
        needs=("postgres",),
        contenders=(
            limit(_RAW_COMMITS, "postgres:commits", 10_000, url=_URL, concurrency=20),
            ours("within:react", 5_000, url=_URL, concurrency=20),
        ),
        targets=(at_least(3_000), aim(6_000)),
        note="The raw loop commits the subscriber's INSERT and nothing else: no claim, no mark, no settle.",
    ),
    Row(
        id="postgres-relay",
        title="relay from PostgreSQL's outbox to Redis, one worker process",
        needs=("postgres", "redis"),
        contenders=(ours("servers:relayed", 40_000, url="{redis}", outbox=_URL),),
        targets=(at_least(30_000), aim(60_000)),
        rounds=3,
    ),
    Row(
        id="postgres-aged",
        title="PostgreSQL after 1,000,000 events, publish and drain at once",
        needs=("postgres",),
        contenders=(ours("servers:aged", 1_000_000, url=_URL),),
        targets=(at_least(50, metric=_OF_FRESH), aim(80, metric=_OF_FRESH)),
        rounds=1,
        timeout=900,
    ),
    Row(
        id="postgres-held",
        title="the same with a transaction open elsewhere all the time",
        needs=("postgres",),
        contenders=(ours("servers:aged", 500_000, url=_URL, open=1),),
        targets=(at_least(50, metric=_OF_FRESH), aim(80, metric=_OF_FRESH)),
        rounds=1,
        timeout=1800,
        note="500,000 events, so that it ends soon; `--scale` takes as many as last for ten minutes.",
    ),
    Row(
        id="postgres-idle",
        title="idle worker with 200 subscriptions, PostgreSQL",
        needs=("postgres",),
        contenders=(ours("servers:idle", 1, url=_URL, subscriptions=200, seconds=10),),
        rounds=1,
    ),
    Row(
        id="postgres-costs",
        title="what one event costs on PostgreSQL, in microseconds of a core",
        needs=("postgres",),
        contenders=(
            ours("servers:costs", 20_000, "postbus, batches of 100", url=_URL, batch=100),
            ours("servers:costs", 3_000, "postbus, published one by one", url=_URL, batch=1),
        ),
        rounds=3,
    ),
)
