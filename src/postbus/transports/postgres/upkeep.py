"""Forgets old ids, history, marks and workers in bounded bites, and what reached a subscription as it was retired."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from ...dice import dice
from ...errors import TransportError
from .declaring import Declaring
from .line import Line
from .schema import Tables

__all__ = ["Upkeep"]

log = logging.getLogger("postbus")

_EVERY = 10.0
# Partitions are made and dropped this often, two days ahead; more than so many days are not worth one each.
_DAILY = 3600.0
_AHEAD = 2 * 86_400.0
_DAYS = 400 * 86_400.0
# What asks for a lock on the whole history waits for no longer than this: workers wait behind it.
_LOCK_PATIENCE = "500ms"
# Rows that one statement deletes, so that none lasts long.
_BITE = 5000
# Ids are remembered for twice the window that is promised, marks for 7 days.
_SEEN = (
    "WITH gone AS (DELETE FROM postbus.seen WHERE id IN (SELECT id FROM postbus.seen "
    "WHERE at < clock_timestamp() - interval '20 minutes' LIMIT %s) RETURNING 1) SELECT count(*) FROM gone"
)
# Days that are over are dropped whole; one by one go those for which no partition could be made.
_HISTORY = (
    "WITH gone AS (DELETE FROM postbus.history_other WHERE ctid = ANY (ARRAY(SELECT k.ctid FROM "
    "postbus.history_other k WHERE k.keep_until < clock_timestamp() LIMIT %s)) RETURNING 1) SELECT count(*) FROM gone"
)
_MARKS = (
    "WITH gone AS (DELETE FROM postbus.done WHERE (subscription, id) IN (SELECT subscription, id FROM postbus.done "
    "WHERE done_at < clock_timestamp() - interval '7 days' LIMIT %s) RETURNING 1) SELECT count(*) FROM gone"
)
_WORKERS = (
    "WITH gone AS (DELETE FROM postbus.worker WHERE owner IN (SELECT owner FROM postbus.worker WHERE "
    "until < clock_timestamp() - interval '1 hour' LIMIT %s FOR UPDATE SKIP LOCKED) RETURNING 1) "
    "SELECT count(*) FROM gone"
)


class Upkeep:
    """A task that looks now and then; one process at a time does the work."""

    def __init__(self, line: Line, tables: Tables, declaring: Declaring, *, retain: float | None) -> None:
        self._line = line
        self._tables = tables
        self._declaring = declaring
        self._retain = retain
        self._next_daily = 0.0
        self._ending = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY * dice.uniform(0.7, 1.3)):
                    await self._ending.wait()
            if not self._ending.is_set():
                await self.partition()
            while not self._ending.is_set():
                try:
                    more = await self.tidy()
                except TransportError:  # it will be there again, and so will what is to be tidied
                    more = False
                if not more:
                    break

    async def partition(self) -> None:
        """Make the partitions of history that will be needed, and drop those that are over, now and then."""
        now = asyncio.get_running_loop().time()
        if now < self._next_daily:
            return
        self._next_daily = now + _DAILY * dice.uniform(0.7, 1.0)
        steps = ["SELECT postbus.drop_history()"]
        if self._retain is not None:
            ahead = min(self._retain, _DAYS) + _AHEAD
            steps.append(f"SELECT postbus.prepare_history(clock_timestamp() + {ahead:.0f} * interval '1 second')")
        for step in steps:
            try:
                async with self._line.transaction(0.0) as ask:
                    await ask(f"SET LOCAL lock_timeout = '{_LOCK_PATIENCE}'")
                    await ask(self._tables(step))
            except TransportError as error:  # what has no partition of its own is kept in another place, no worse
                log.info("history is not partitioned now: %s", error)
                self._next_daily = now + _EVERY * 6

    async def tidy(self) -> bool:
        """Take one bite of everything; whether there may be more."""
        more = False
        async with self._line.transaction(0.0) as ask:
            ((mine,),) = await ask("SELECT pg_try_advisory_xact_lock(%s, -1)", (self._tables.lock,))
            if not mine:
                return False
            for step in (_SEEN, _HISTORY, _MARKS, _WORKERS):
                ((count,),) = await ask(self._tables(step), (_BITE,))
                more = more or count >= _BITE
        retired = self._tables(
            "SELECT s.id FROM postbus.subscription s WHERE s.name IS NULL "
            "AND EXISTS (SELECT FROM postbus.delivery d WHERE d.subscription = s.id) LIMIT 1"
        )
        for (id_,) in await self._line.ask(retired, ()):
            more = await self._declaring.bite(id_) or more
        return more

    async def close(self) -> None:
        """Stop, when what is under way has ended."""
        self._ending.set()
        await asyncio.gather(self._task, return_exceptions=True)
