"""What there is to say about a server: where it may lose events, what it lacks, and what holds its memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from redis.exceptions import NoPermissionError, ResponseError

from ...finding import Finding, Level
from .line import Line
from .registry import Keys, Registry
from .wire import pairs

__all__ = ["examined", "weaknesses"]

_OLDEST, _COUNTING = (6, 2), (7, 0)
# The server's clock makes leases and retries due, the publisher's says when an event expires.
_SKEW = 1.0
_NEARLY_FULL = 0.9
_GROUP = re.compile(r"(\d+)-\d+")
_UNSAFE_POLICIES = ("allkeys-lru", "allkeys-lfu", "allkeys-random", "allkeys-lrm")
_SETTINGS = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy")
_ADVICE_ACL = "give it the rights that docs/redis.md names"


def weaknesses(found: Sequence[Finding]) -> list[Finding]:
    """Those findings that say that an accepted event may be lost, or that nobody may know."""
    return [one for one in found if one.what in ("persistence", "eviction") and one.level != "ok"]


async def examined(line: Line, keys: Keys, registry: Registry) -> list[Finding]:
    """Everything that can be seen from here."""
    info = await _info(line)
    settings = await _settings(line)
    found = [*_server(info), *_persistence(settings, info), *_eviction(settings, info)]
    found += [await _clock(line), await _rights(line, keys)]
    return [*found, *await _groups(line, keys, registry)]


# -- what is asked


async def _info(line: Line) -> Mapping[str, str]:
    """Empty when this user may not ask."""
    (reply,) = await line.ask(("INFO",))
    if isinstance(reply, ResponseError):
        return {}
    rows = (row.partition(":") for row in reply.decode("utf-8", "replace").splitlines() if ":" in row)
    return {name: value.strip() for name, _, value in rows}


async def _settings(line: Line) -> Mapping[str, str]:
    """As far as this user may know them."""
    replies = await line.ask(*(("CONFIG", "GET", name) for name in _SETTINGS))
    flat = [word for reply in replies if not isinstance(reply, ResponseError) for word in reply]
    return {name.decode(): value.decode("utf-8", "replace") for name, value in pairs(flat).items()}


# -- what it says


def _server(info: Mapping[str, str]) -> Iterator[Finding]:
    if not info:
        yield _finding("note", "server", "its version cannot be seen: this user may not run INFO")
        return
    speaks = info.get("redis_version", "0")
    valkey = info.get("valkey_version")
    name = f"Valkey {valkey}, which speaks Redis {speaks}" if valkey else f"Redis {speaks}"
    version = tuple(int(part) for part in re.findall(r"\d+", speaks)[:2])
    if version < _OLDEST:
        yield _finding("error", "server", f"{name}: too old for postbus", "Redis 6.2 or newer, or Valkey")
    elif version < _COUNTING:
        yield _finding(
            "note",
            "server",
            f"{name}: events that somebody else trims before they are read cannot be counted",
            "Redis 7.0 or newer, or Valkey, counts what was ever added to a stream",
        )
    else:
        yield _finding("ok", "server", f"{name}; of what is newer than 6.2, streams' counts of entries ever added")
    if info.get("role") == "slave":
        yield _finding("error", "server", "is a replica, which refuses to be written to", "name the primary in the URL")


def _persistence(settings: Mapping[str, str], info: Mapping[str, str]) -> Iterator[Finding]:
    what = "persistence"
    append_only = settings.get("appendonly") or {"1": "yes", "0": "no"}.get(info.get("aof_enabled", ""))
    if append_only is None:
        yield _finding("note", what, "cannot be seen: this user may run neither CONFIG GET nor INFO")
        return
    for name, state in (("aof_last_write_status", "the append-only file"), ("rdb_last_bgsave_status", "a snapshot")):
        if info.get(name, "ok") != "ok":
            yield _finding("error", what, f"the server could not write {state} last", "look at its log and its disk")
    if append_only == "no":
        saved = settings.get("save")
        snapshots = "; snapshots keep the rest" if saved else "" if saved is None else ", and no snapshot is made"
        yield _finding(
            "warning",
            what,
            f"appendonly is 'no': a server that is killed forgets what it accepted last{snapshots}",
            "appendonly yes in its configuration, or CONFIG SET appendonly yes",
        )
        return
    sync = settings.get("appendfsync")
    if sync == "no":
        text = "appendfsync is 'no': a power loss forgets what the system had not written"
        yield _finding("warning", what, text, "appendfsync everysec loses 2 s at most, always nothing")
    else:
        lost = {"everysec": "; a power loss forgets up to 2 s", "always": "; a power loss forgets nothing"}
        yield _finding(
            "ok", what, f"appendonly is 'yes', appendfsync {sync or 'cannot be seen'}{lost.get(sync or '', '')}"
        )


def _eviction(settings: Mapping[str, str], info: Mapping[str, str]) -> Iterator[Finding]:
    what = "eviction"
    policy = settings.get("maxmemory-policy") or info.get("maxmemory_policy")
    limit, used = int(settings.get("maxmemory") or info.get("maxmemory") or 0), int(info.get("used_memory") or 0)
    if policy is None:
        yield _finding("note", what, "cannot be seen: this user may run neither CONFIG GET nor INFO")
    elif policy in _UNSAFE_POLICIES:
        when = "at its memory limit" if limit else "as soon as it has a memory limit"
        yield _finding(
            "error",
            what,
            f"maxmemory-policy is {policy!r}: {when} the server deletes events that nobody has handled",
            "maxmemory-policy noeviction refuses publishes instead, and lets the backlog drain",
        )
    elif policy != "noeviction":
        yield _finding(
            "warning",
            what,
            f"maxmemory-policy is {policy!r}: at the memory limit the server forgets which ids it has stored",
            "maxmemory-policy noeviction",
        )
    else:
        yield _finding("ok", what, "maxmemory-policy is 'noeviction'")
    if limit and used > limit * _NEARLY_FULL:
        share = round(100 * used / limit)
        yield _finding(
            "warning",
            "memory",
            f"{share} % of maxmemory is used: publishes are refused at 100 %",
            "drain it, or raise maxmemory",
        )


async def _clock(line: Line) -> Finding:
    before = time.time()
    (now,) = await line.ask(("TIME",))
    after = time.time()
    if isinstance(now, ResponseError):
        return _finding("error", "clock", f"the server does not tell its time: {now}", _ADVICE_ACL)
    theirs = int(now[0]) + int(now[1]) / 1e6
    off = theirs - after if theirs > after else theirs - before if theirs < before else 0.0
    if abs(off) > _SKEW:
        way = "ahead of" if off > 0 else "behind"
        text = f"the server's clock is {abs(off):.1f} s {way} this machine's: events expire so much off"
        return _finding("warning", "clock", text, "run an NTP client on both")
    return _finding("ok", "clock", "the server's and this machine's agree")


async def _rights(line: Line, keys: Keys) -> Finding:
    """Each command in a form that does nothing; whoever may not run it is told so before that shows."""
    registry, subscriptions, names = keys.registry
    topic = keys.tag("postbus-doctor")
    stream, other = f"{topic}:s", f"{topic}:x"
    probes: list[tuple[Any, ...]] = [
        ("XADD", stream, "NOMKSTREAM", "*", "n", ""), ("XACK", stream, "g", "0-1"), ("XTRIM", stream, "MAXLEN", 0),
        ("XRANGE", stream, "-", "-"), ("XREVRANGE", stream, "+", "+"), ("XLEN", stream),
        ("XPENDING", stream, "g"), ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", stream, ">"),
        ("XCLAIM", stream, "g", "c", 0, "0-1"), ("XINFO", "STREAM", stream), ("XGROUP", "DESTROY", stream, "g"),
        ("HGET", other, "f"), ("HMGET", other, "f"), ("HGETALL", subscriptions), ("HDEL", other, "f"),
        ("HSCAN", other, 0), ("HEXISTS", other, "f"), ("HLEN", other), ("SMEMBERS", names), ("SMISMEMBER", other, "m"),
        ("ZREM", other, "m"), ("ZCARD", other), ("ZSCORE", other, "m"), ("ZRANGE", other, 0, 0),
        ("ZCOUNT", other, 0, 0), ("ZADD", other, "XX", 0, "m"), ("ZRANGEBYSCORE", other, 0, 0),
        ("ZREMRANGEBYSCORE", other, 0, 0),
        ("ZRANGEBYLEX", other, "-", "+"), ("ZLEXCOUNT", other, "-", "+"), ("UNLINK", other), ("PEXPIRE", other, 1),
        ("EXISTS", other), ("PUBLISH", keys.bell, ""), ("SCRIPT", "LOAD", "return 1"), ("HGET", registry, "revision"),
        ("EVALSHA", "0" * 40, 0),
    ]  # fmt: skip
    replies = await line.ask(*probes)
    refused = sorted({str(probe[0]) for probe, reply in zip(probes, replies, strict=True) if _refused(reply)})
    if refused:
        text = f"this user may not run {', '.join(refused)}, or not on the keys and channel of this namespace"
        return _finding("error", "rights", text, _ADVICE_ACL)
    return _finding("ok", "rights", "this user may do what postbus does")


def _refused(reply: object) -> bool:
    return isinstance(reply, NoPermissionError) or (
        isinstance(reply, ResponseError) and str(reply).startswith("NOPERM")
    )


# -- what holds its memory


async def _groups(line: Line, keys: Keys, registry: Registry) -> list[Finding]:
    """Groups that read a stream of ours and are no subscription's: what they do not read is kept for ever."""
    topics = sorted({*registry.names, *(topic for one in registry.records.values() for topic in registry.topics(one))})
    found: list[Finding] = []
    for topic in topics:
        stream = keys.stream(topic)
        groups, length = await line.ask(("XINFO", "GROUPS", stream), ("XLEN", stream))
        if isinstance(groups, ResponseError) or isinstance(length, ResponseError):
            continue
        for group in map(pairs, groups):
            name = group[b"name"].decode("utf-8", "replace")
            if not await _is_ours(line, keys, registry, topic, name):
                found.append(
                    _finding(
                        "warning",
                        f"topic {topic}",
                        f"the group {name!r} is no subscription's, and the stream, {length:,} entries long, keeps "
                        "what that group has not read and acknowledged",
                        f"XGROUP DESTROY '{stream}' '{name}', if nobody uses it",
                    )
                )
    return found


async def _is_ours(line: Line, keys: Keys, registry: Registry, topic: str, group: str) -> bool:
    match = _GROUP.fullmatch(group)
    if match is None or int(match[1]) not in registry.records:
        return False
    current = await line.one("HGET", f"{keys.tag(topic)}:{match[1]}:c", "group")
    return bool(current == group.encode())


def _finding(level: Level, what: str, text: str, advice: str = "") -> Finding:
    return Finding(level=level, what=what, text=text, advice=advice)
