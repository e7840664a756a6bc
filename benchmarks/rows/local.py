"""In this process, in memory and on SQLite: what needs no server."""

from __future__ import annotations

from ..harness import Row, aim, at_least, at_most, limit, ours, peer

__all__ = ["ROWS"]

_FILE = "sqlite:///{here}/bench.db"
_SHARED = "sqlite:///{shared}/bench.db"

_DEQUE = "deque drained by one task"
_COMMIT = "raw INSERT + commit"
_ONE = "postbus, 1 coroutine"
_MANY = "postbus, 20 coroutines"
_FEW = "postbus, 10,000 waiting"
_LOTS = "postbus, 1,000,000 waiting"
_NONE = "postbus, no retry waiting"
_RETRIES = "postbus, 100,000 retries waiting"
_GAINED = "MiB gained"
_GAINED_NOTE = "Gained: the most above half-way that it held in the second half; caches are full by then."

ROWS = (
    Row(
        id="call-sync-1",
        title="`call_sync`, 1 handler",
        contenders=(
            limit("bare call loop", "calls:bare_loop", 6_000_000, handlers=1),
            ours("calls:call_sync", 1_500_000, handlers=1),
            peer("pyee", "pyee:call", 500_000, handlers=1),
            peer("blinker", "blinker:call", 300_000, handlers=1),
            peer("django", "django:call", 300_000, handlers=1),
            peer("psygnal", "psygnal:call", 200_000, handlers=1),
        ),
        targets=(at_least(2.5, "pyee"), at_least(4, "blinker"), aim(0.40, "bare call loop")),
    ),
    Row(
        id="call-sync-10",
        title="`call_sync`, 10 handlers",
        contenders=(
            limit("bare call loop", "calls:bare_loop", 1_000_000, handlers=10),
            ours("calls:call_sync", 500_000, handlers=10),
            peer("pyee", "pyee:call", 200_000, handlers=10),
            peer("blinker", "blinker:call", 100_000, handlers=10),
            peer("django", "django:call", 100_000, handlers=10),
            peer("psygnal", "psygnal:call", 100_000, handlers=10),
        ),
        targets=(at_least(0.55, "bare call loop"), aim(0.75, "bare call loop")),
    ),
    Row(
        id="memory",
        title="memory (object passed), `publish` one by one to handled and settled, one loop, concurrency 100",
        contenders=(
            limit(_DEQUE, "queues:objects", 1_500_000),
            ours("road:publish_to_settled", 300_000, url="memory://"),
            peer("pyee (asyncio)", "pyee:background", 50_000),
            peer("pyventus", "pyventus:background", 20_000),
            peer("bubus", "bubus:background", 500),
        ),
        targets=(at_least(377_494), at_least(0.07, _DEQUE), aim(1_200_000), aim(0.2, _DEQUE)),
        note="The peers neither retry nor settle; they start a task for each event.",
    ),
    Row(
        id="memory-msgpack",
        title="memory with `codec=msgpack`, the same road",
        contenders=(
            limit(_DEQUE, "queues:objects", 1_500_000),
            limit("the same, encoded and decoded", "queues:msgpack", 400_000),
            ours("road:publish_to_settled", 150_000, url="memory://?codec=msgpack"),
        ),
        targets=(at_least(0.03, _DEQUE), aim(0.05, _DEQUE)),
    ),
    Row(
        id="sqlite-publish-sync",
        title="SQLite, `publish_sync` one by one, durability=disk",
        contenders=(
            limit(_COMMIT, "sqlite:publish_one_by_one", 5_000),
            ours("road:publish_sync", 4_000, url=_FILE),
            peer("huey (fsync)", "huey:publish_one_by_one", 3_000),
            peer("litequeue (synchronous=NORMAL)", "litequeue:publish_one_by_one", 6_000),
            peer("persist-queue", "persistqueue:publish_one_by_one", 2_000),
        ),
        targets=(at_least(0.4, _COMMIT), aim(0.6, _COMMIT)),
        note="postbus also writes a delivery row for its one subscription, and remembers the id.",
    ),
    Row(
        id="sqlite-publish",
        title="SQLite, `publish` one by one from a coroutine",
        contenders=(
            limit(_COMMIT, "sqlite:publish_one_by_one", 5_000),
            ours("road:publish", 4_000, url=_FILE, publishers=1),
        ),
        targets=(at_least(0.25, _COMMIT), aim(0.4, _COMMIT)),
    ),
    Row(
        id="sqlite-publish-many",
        title="SQLite, `publish_many(100)`",
        contenders=(
            limit("raw executemany of 100", "sqlite:publish_many", 60_000, batch=100),
            ours("road:publish_many", 40_000, url=_FILE, batch=100),
        ),
        targets=(at_least(0.35, "raw executemany of 100"), aim(0.6, "raw executemany of 100")),
    ),
    Row(
        id="sqlite-coalesce",
        title="SQLite, 20 coroutines each awaiting single publishes",
        contenders=(
            limit(_COMMIT, "sqlite:publish_one_by_one", 5_000),
            ours("road:publish", 4_000, _ONE, url=_FILE, publishers=1),
            ours("road:publish", 20_000, _MANY, url=_FILE, publishers=20),
        ),
        targets=(at_least(3, _ONE, of=_MANY), aim(6, _ONE, of=_MANY)),
    ),
    Row(
        id="sqlite-drain",
        title="SQLite drain, one worker process, one coroutine subscriber, concurrency 100",
        contenders=(
            limit("raw batched claim + delete", "sqlite:drain", 100_000, batch=100),
            ours("road:drain", 100_000, url=_FILE),
            peer("huey (fsync)", "huey:drain", 3_000),
            peer("litequeue (synchronous=NORMAL)", "litequeue:drain", 2_000),
            peer("persist-queue", "persistqueue:drain", 1_500),
        ),
        targets=(at_least(0.15, "raw batched claim + delete"), aim(0.4, "raw batched claim + delete")),
    ),
    Row(
        id="sqlite-latency",
        title="publish-to-start latency at 500/s, SQLite, two processes",
        contenders=(
            limit("raw, `data_version` each millisecond", "sqlite:latency", 2_500, per_second=500),
            ours("road:latency", 2_500, url=_FILE, per_second=500),
        ),
        targets=(at_most(5, "ms p50"), at_most(25, "ms p99"), aim(1, metric="ms p50", lower=True)),
    ),
    Row(
        id="sqlite-idle",
        title="idle worker with 200 subscriptions, SQLite",
        contenders=(
            limit("raw, `data_version` each millisecond", "sqlite:idle", 1, seconds=4),
            ours("road:idle", 1, url=_FILE, subscriptions=200, seconds=4),
        ),
        targets=(at_most(3, "% of a core"), aim(1, metric="% of a core", lower=True)),
    ),
    Row(
        id="flat-memory",
        title="a worker's memory over 1,000,000 events, memory transport",
        contenders=(ours("soak:memory_passing", 1_000_000, url="memory://"),),
        targets=(at_most(9, _GAINED),),
        rounds=1,
        timeout=600,
        note=f"{_GAINED_NOTE} Each id is remembered for ten minutes, at 16 bytes: 7.6 MiB here.",
    ),
    Row(
        id="flat-sqlite",
        title="a worker's memory over 1,000,000 events, SQLite",
        prepare=(ours("soak:stored", 1_000_000, url=_SHARED),),
        contenders=(ours("soak:memory_stored", 1_000_000, url=_SHARED),),
        targets=(at_most(2, _GAINED),),
        rounds=1,
        timeout=600,
        note=_GAINED_NOTE,
    ),
    Row(
        id="flat-retries",
        title="a worker's memory while 100,000 events fail and wait for their retry, SQLite",
        prepare=(ours("soak:stored", 100_000, url=_SHARED),),
        contenders=(ours("soak:memory_failing", 100_000, url=_SHARED),),
        targets=(at_most(2, _GAINED),),
        rounds=1,
        timeout=300,
        note=_GAINED_NOTE,
    ),
    Row(
        id="beside-retries",
        title="a fresh worker's memory beside 100,000 waiting retries, SQLite",
        prepare=(
            ours("soak:stored", 100_000, "fill", url=_SHARED),
            ours("soak:memory_failing", 100_000, "fail", url=_SHARED),
        ),
        contenders=(
            ours("soak:memory_beside", 2_000, _NONE, url=_FILE),
            ours("soak:memory_beside", 2_000, _RETRIES, url=_SHARED),
        ),
        targets=(at_most(1.15, "MiB", _NONE, of=_RETRIES),),
        timeout=300,
        note="The difference is SQLite's page cache; kept in memory, so many retries would be several times this.",
    ),
    Row(
        id="sqlite-backlog",
        title="drain rate with a backlog of 1,000,000 against 10,000, SQLite",
        prepare=(ours("soak:stored", 1_000_000, url=_SHARED),),
        contenders=(
            ours("soak:backlog", 9_000, _FEW, url=_FILE, fill=10_000),
            ours("soak:backlog", 9_000, _LOTS, url=_SHARED, fill=0),
        ),
        targets=(at_least(0.9, _FEW, of=_LOTS),),
        rounds=11,
        timeout=600,
    ),
)
