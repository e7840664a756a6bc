"""What there is to say about a server: where it may lose events, what slows it, and what stands between it and us."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ...finding import Finding, Level
from .line import Line, Row
from .schema import Tables

__all__ = ["examined"]

_OLDEST = 13
# The server's clock makes leases and retries due, the publisher's says when an event expires.
_SKEW = 1.0
# Seconds: what was deleted since a transaction began stays in the tables and is passed over by each claim.
_OLD = 60.0
_NEARLY_FULL = 0.9
# Dead rows in a table that is not large: the autovacuum does not keep up.
_DEAD = 200_000

_FACTS = """
SELECT current_setting('server_version'), current_setting('server_version_num')::integer / 10000,
    pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes'),
    current_setting('synchronous_commit'), current_setting('autovacuum'),
    extract(epoch FROM clock_timestamp())::double precision,
    (SELECT sum(numbackends)::integer FROM pg_stat_database),
    current_setting('max_connections')::integer,
    has_schema_privilege(%s, 'CREATE')
"""
# Whatever keeps the vacuum from taking rows away: transactions, prepared ones, and standbys or slots that lag.
_OLDEST_VIEW = """
SELECT coalesce(max(x.age), 0)::double precision, count(*) FILTER (WHERE x.hidden) FROM (
    SELECT extract(epoch FROM clock_timestamp() - a.xact_start) AS age, a.backend_type IS NULL AS hidden
    FROM pg_stat_activity a
    WHERE a.pid <> pg_backend_pid() AND coalesce(a.backend_type, 'client backend') = 'client backend'
    UNION ALL SELECT extract(epoch FROM clock_timestamp() - p.prepared), false FROM pg_prepared_xacts p
) x
"""
_TABLES = """
SELECT relname, n_dead_tup FROM pg_stat_user_tables WHERE schemaname = %s AND relname IN ('delivery', 'event', 'seen')
AND n_dead_tup > %s ORDER BY relname
"""


async def examined(line: Line, tables: Tables, *, listens: bool, retains: bool) -> list[Finding]:
    """Everything that can be seen from here."""
    began = time.time()
    ((version, major, standby, *durable, autovacuum, there, used, most, creates),) = await line.ask(
        _FACTS, (tables.namespace,)
    )
    skew = there - (began + time.time()) / 2
    found = [_server(version, major, standby=standby), *_durability(*durable), *_vacuum(autovacuum)]
    found.append(_transactions(*(await line.ask(_OLDEST_VIEW, ()))[0]))
    found += _litter(await line.ask(_TABLES, (tables.namespace, _DEAD)))
    found += [_clock(skew), _connections(used, most), _pooler(pooled=await line.pooled(), line=line, listens=listens)]
    if not creates:
        found.append(_rights(retains=retains))
    return found


def _server(version: str, major: int, *, standby: bool) -> Finding:
    if standby:
        advice = "name the primary, or add target_session_attrs=read-write to a URL with several hosts"
        return _finding("error", "server", f"PostgreSQL {version}, a standby: nothing can be written to it", advice)
    if major < _OLDEST:
        return _finding("error", "server", f"PostgreSQL {version}: too old for postbus", "PostgreSQL 13 or newer")
    return _finding("ok", "server", f"PostgreSQL {version}")


def _durability(fsync: str, whole_pages: str, commit: str) -> Iterator[Finding]:
    if fsync != "on" or whole_pages != "on":
        name = "fsync" if fsync != "on" else "full_page_writes"
        text = f"{name} is off: a power loss may destroy the database"
        yield _finding("error", "durability", text, f"{name} = on in postgresql.conf")
    if commit == "off":
        text = "synchronous_commit is off: a crash of the server loses what was accepted in its last moments"
        yield _finding("warning", "durability", text, "ALTER ROLE ... SET synchronous_commit = on")
    elif fsync == whole_pages == "on":
        yield _finding("ok", "durability", f"fsync is on, synchronous_commit is {commit}")


def _vacuum(autovacuum: str) -> Iterator[Finding]:
    if autovacuum != "on":
        text = "autovacuum is off: what is done stays in the tables, and claims become slower and slower"
        yield _finding("error", "vacuum", text, "autovacuum = on in postgresql.conf")


def _transactions(age: float, hidden: int) -> Finding:
    if age > _OLD:
        text = f"the oldest transaction is open for {age:.0f} s: what is done since then cannot be cleared away"
        return _finding("warning", "transactions", text, "end it: see pg_stat_activity and pg_prepared_xacts")
    if hidden:
        text = f"{hidden} connections of other roles cannot be looked into"
        return _finding("note", "transactions", text, "GRANT pg_read_all_stats to the role, to see old transactions")
    return _finding("ok", "transactions", f"the oldest is open for {age:.0f} s")


def _litter(rows: Sequence[Row]) -> Iterator[Finding]:
    for table, dead in rows:
        text = f"{dead} dead rows in {table}: the vacuum does not keep up, or a transaction holds it back"
        yield _finding("warning", "vacuum", text, f"VACUUM {table}; then look for old transactions")


def _clock(skew: float) -> Finding:
    if abs(skew) > _SKEW:
        text = f"the server's clock is {skew:+.1f} s from this one: events expire early or late by as much"
        return _finding("warning", "clock", text, "synchronise both, by NTP")
    return _finding("ok", "clock", f"{abs(skew):.1f} s from this one")


def _connections(used: int, most: int) -> Finding:
    if used > _NEARLY_FULL * most:
        text = f"{used} of {most} connections are in use"
        return _finding("warning", "connections", text, "a smaller pool=, a pooler, or a larger max_connections")
    return _finding("ok", "connections", f"{used} of {most} are in use")


def _pooler(*, pooled: bool, line: Line, listens: bool) -> Finding:
    if pooled and (listens or line.door.prepares):
        text = "a pooler stands before the server, and the URL says nothing of it"
        return _finding("warning", "pooler", text, "where it pools transactions, add prepare=off&listen=off")
    if pooled:
        return _finding("ok", "pooler", "a pooler; work is found by polling")
    if not listens:
        text = "nothing stands before the server, and listen=off makes every event up to a second late"
        return _finding("note", "pooler", text, "leave listen=off away")
    return _finding("ok", "pooler", "none")


def _rights(*, retains: bool) -> Finding:
    if retains:
        text = "the role may not make tables: history lies in one table, and is deleted row by row"
        return _finding("note", "rights", text, "GRANT CREATE on the schema, and let the role own its tables")
    return _finding(
        "note", "rights", "the role may not make tables: an upgrade needs `postbus db apply` by one that may"
    )


def _finding(level: Level, what: str, text: str, advice: str = "") -> Finding:
    return Finding(level=level, what=what, text=text, advice=advice)
