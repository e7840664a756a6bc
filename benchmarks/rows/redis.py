"""Redis Streams."""

from __future__ import annotations

from ..harness import Row, aim, at_least, at_most, limit, ours, peer

__all__ = ["ROWS"]

_URL = "{redis}"
_SHARED = "{redis_shared}"

_RAW_MANY = "redis-py, EVALSHA of 100 XADD"
_RAW_ONE = "redis-py, XADD one by one"
_RAW_TWENTY = "redis-py, 20 coroutines"
_RAW_DRAIN = "redis-py, XREADGROUP + XACK of 100"
_RAW_BOTH = "redis-py, the two at once"
_RAW_LATENCY = "redis-py, XADD and blocking XREADGROUP"
_FASTSTREAM = "FastStream"
_FEW = "postbus, 10,000 waiting"
_LOTS = "postbus, 1,000,000 waiting"
_BYTES = "bytes an event"
_CORE = "% of a core"

ROWS: tuple[Row, ...] = (
    Row(
        id="redis-publish-many",
        title="Redis, `publish_many(100)`",
        needs=("redis",),
        contenders=(
            limit(_RAW_MANY, "redis:publish_many", 100_000, url=_URL, batch=100),
            ours("road:publish_many", 80_000, url=_URL, batch=100),
            peer(_FASTSTREAM, "faststream:publish_many", 10_000, url=_URL, batch=100),
        ),
        targets=(at_least(0.45, _RAW_MANY), aim(0.65, _RAW_MANY)),
    ),
    Row(
        id="redis-drain",
        title="Redis drain, one worker process, one coroutine subscriber, concurrency 100",
        needs=("redis",),
        contenders=(
            limit(_RAW_DRAIN, "redis:drain", 100_000, url=_URL),
            ours("road:drain", 80_000, url=_URL),
            peer(_FASTSTREAM, "faststream:drain", 5_000, url=_URL),
        ),
        targets=(at_least(0.35, _RAW_DRAIN), at_least(10, _FASTSTREAM), aim(0.65, _RAW_DRAIN)),
    ),
    Row(
        id="redis-both",
        title="Redis, publish and drain at once, two processes",
        needs=("redis",),
        contenders=(
            limit(_RAW_BOTH, "redis:both", 100_000, url=_URL),
            ours("road:both", 80_000, url=_URL),
            peer(_FASTSTREAM, "faststream:both", 5_000, url=_URL),
        ),
        targets=(at_least(8, _FASTSTREAM), at_least(0.35, _RAW_BOTH), aim(20, _FASTSTREAM), aim(0.6, _RAW_BOTH)),
    ),
    Row(
        id="redis-ordered",
        title="Redis ordered drain, 10,000 keys",
        needs=("redis",),
        contenders=(
            limit(_RAW_DRAIN, "redis:drain", 100_000, url=_URL),
            ours("road:drain", 60_000, url=_URL, keys=10_000),
        ),
        targets=(at_least(0.25, _RAW_DRAIN), aim(0.5, _RAW_DRAIN)),
    ),
    Row(
        id="redis-hot-key",
        title="Redis ordered drain, one hot key",
        needs=("redis",),
        contenders=(ours("road:drain", 10_000, url=_URL, keys=1),),
        targets=(at_least(6_000), aim(15_000)),
    ),
    Row(
        id="redis-publish",
        title="Redis, `publish` one by one, one publisher",
        needs=("redis",),
        contenders=(
            limit(_RAW_ONE, "redis:publish", 8_000, url=_URL, publishers=1),
            ours("road:publish", 8_000, url=_URL, publishers=1),
            peer(_FASTSTREAM, "faststream:publish", 4_000, url=_URL, publishers=1),
        ),
        targets=(at_least(0.7, _RAW_ONE), aim(0.9, _RAW_ONE)),
    ),
    Row(
        id="redis-coalesce",
        title="Redis, 20 coroutines each awaiting single publishes",
        needs=("redis",),
        contenders=(
            limit(_RAW_TWENTY, "redis:publish", 20_000, url=_URL, publishers=20),
            ours("road:publish", 40_000, url=_URL, publishers=20),
            peer(_FASTSTREAM, "faststream:publish", 10_000, url=_URL, publishers=20),
        ),
        targets=(at_least(2.5, _RAW_TWENTY), at_least(4, _FASTSTREAM), aim(6, _FASTSTREAM)),
    ),
    Row(
        id="redis-latency",
        title="publish-to-start latency at 500/s, Redis, two processes",
        needs=("redis",),
        contenders=(
            limit(_RAW_LATENCY, "redis:latency", 1_500, url=_URL, per_second=500),
            ours("road:latency", 1_500, url=_URL, per_second=500),
            peer(_FASTSTREAM, "faststream:latency", 1_500, url=_URL, per_second=500),
        ),
        targets=(
            at_most(2.5, "ms p50", _RAW_LATENCY),
            at_most(1, "ms p50", _FASTSTREAM),
            aim(1.5, _RAW_LATENCY, metric="ms p50", lower=True),
        ),
    ),
    Row(
        id="redis-publish-many-aof",
        title="Redis with appendonly everysec, `publish_many(100)`",
        needs=("redis everysec",),
        contenders=(
            limit(_RAW_MANY, "redis:publish_many", 100_000, url=_URL, batch=100),
            ours("road:publish_many", 80_000, url=_URL, batch=100),
        ),
        targets=(at_least(0.45, _RAW_MANY), aim(0.65, _RAW_MANY)),
    ),
    Row(
        id="redis-drain-aof",
        title="Redis with appendonly everysec, drain",
        needs=("redis everysec",),
        contenders=(
            limit(_RAW_DRAIN, "redis:drain", 100_000, url=_URL),
            ours("road:drain", 80_000, url=_URL),
        ),
        targets=(at_least(0.35, _RAW_DRAIN), aim(0.65, _RAW_DRAIN)),
    ),
    Row(
        id="redis-both-aof",
        title="Redis with appendonly everysec, publish and drain at once, two processes",
        needs=("redis everysec",),
        contenders=(
            limit(_RAW_BOTH, "redis:both", 100_000, url=_URL),
            ours("road:both", 80_000, url=_URL),
            peer(_FASTSTREAM, "faststream:both", 5_000, url=_URL),
        ),
        targets=(at_least(8, _FASTSTREAM), at_least(0.35, _RAW_BOTH), aim(20, _FASTSTREAM), aim(0.6, _RAW_BOTH)),
    ),
    Row(
        id="redis-ordered-aof",
        title="Redis with appendonly everysec, ordered drain, 10,000 keys",
        needs=("redis everysec",),
        contenders=(
            limit(_RAW_DRAIN, "redis:drain", 100_000, url=_URL),
            ours("road:drain", 60_000, url=_URL, keys=10_000),
        ),
        targets=(at_least(0.25, _RAW_DRAIN), aim(0.5, _RAW_DRAIN)),
    ),
    Row(
        id="redis-memory",
        title="Redis, server memory for each stored event, one subscription, dedup included",
        needs=("redis",),
        contenders=(
            limit("redis-py, a stream and a group", "redis:memory", 100_000, url=_URL),
            ours("servers:memory", 100_000, url=_URL),
        ),
        targets=(at_most(400, _BYTES), aim(330, metric=_BYTES, lower=True)),
        rounds=1,
        note="An event is 225 bytes long here: 198 of envelope, its name and its key.",
    ),
    Row(
        id="redis-backlog",
        title="drain rate with a backlog of 1,000,000 against 10,000, Redis",
        needs=("redis",),
        prepare=(ours("soak:stored", 1_000_000, url=_SHARED),),
        contenders=(
            ours("soak:backlog", 9_000, _FEW, url=_URL, fill=10_000),
            ours("soak:backlog", 9_000, _LOTS, url=_SHARED, fill=0),
        ),
        targets=(at_least(0.9, _FEW, of=_LOTS),),
        rounds=11,
        timeout=300,
    ),
    Row(
        id="redis-memory-back",
        title="Redis, server memory after 1,000,000 events were stored and drained",
        needs=("redis",),
        contenders=(ours("servers:memory_back", 1_000_000, url=_URL),),
        targets=(at_most(2, "MiB drained and forgotten"),),
        rounds=1,
        timeout=300,
        note="Ids are remembered for ten minutes; what is left when they are forgotten is measured by forgetting them.",
    ),
    Row(
        id="redis-idle",
        title="idle worker with 200 subscriptions, Redis",
        needs=("redis",),
        contenders=(ours("servers:idle", 1, url=_URL, subscriptions=200, seconds=10),),
        targets=(at_most(9, "connections"), at_most(3, _CORE), aim(0.5, metric=_CORE, lower=True)),
        rounds=3,
    ),
    Row(
        id="redis-idle-workers",
        title="100 idle workers of one subscription, Redis: the server's processor time",
        needs=("redis",),
        contenders=(ours("servers:idle_workers", 1, url=_URL, workers=100, seconds=10),),
        targets=(at_most(3, _CORE),),
        rounds=2,
        note="The workers share a process here; the server sees a hundred of them.",
    ),
    Row(
        id="redis-costs",
        title="what one event costs on Redis, in microseconds of a core",
        needs=("redis",),
        contenders=(
            ours("servers:costs", 60_000, "postbus, batches of 100", url=_URL, batch=100),
            ours("servers:costs", 6_000, "postbus, published one by one", url=_URL, batch=1),
        ),
        rounds=3,
    ),
)
