"""`postbus status`: how every subscription stands; once, again and again, or as a check."""

from __future__ import annotations

import asyncio
import operator
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ..bus import Bus
from ..errors import TransportError
from ..hold import OUTBOX
from ..inspection import OutboxStats, Stats
from ..program import is_place
from ..transport import SubscriptionStats, WorkerInfo
from .given import Span, as_json, takes_app, without_app
from .output import Table, age, colour, print_json, say
from .records import of_outbox, of_stats, of_worker
from .session import with_bus

__all__ = ["status"]

CHECK_FAILED = 4
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq,
}  # fmt: skip
# The word on the command line -> the field it reads.
_MEASURES = {
    "lag": "backlog", "backlog": "backlog", "age": "oldest_age", "dead": "dead", "in_flight": "in_flight",
    "scheduled": "scheduled", "retrying": "retrying", "parked": "parked", "workers": "workers",
}  # fmt: skip
_CLAUSE = re.compile(r"\s*([a-z_-]+)\s*(>=|<=|>|<|=)\s*(\S+)\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """One clause of `--fail-on`."""

    text: str
    field: str
    compare: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Read `lag>1000`.

        Raises:
            click.BadParameter: when it is none.
        """
        match = _CLAUSE.fullmatch(text)
        field = _MEASURES.get(match[1].replace("-", "_")) if match else None
        if match is None or field is None:
            known = ", ".join(sorted(_MEASURES))
            raise click.BadParameter(f"{text!r} is no limit: expected such as lag>1000 or age>5m, of {known}")
        value = Span().convert(match[3], None, None)
        return cls(text.strip(), field, match[2], value)

    def broken_by(self, stats: SubscriptionStats) -> bool:
        """Whether this subscription is beyond it."""
        return _OPERATORS[self.compare](getattr(stats, self.field) or 0, self.value)


@click.command()
@takes_app()
@click.option("--watch", is_flag=False, flag_value="2s", metavar="[SPAN]", help="Again and again; every 2s by default.")
@click.option("--fail-on", default="", metavar="LIMITS", help="Exit with 4 beyond such as lag>1000,dead>0,age>60.")
@as_json
def status(
    words: tuple[str, ...], *, app_dir: str, factory: bool, watch: str | None, fail_on: str, as_json: bool
) -> int:
    """Show how every subscription of APP stands.

    Ready is what may run now, age how long the oldest of it has waited; later is what was published with a delay.  A
    subscription waits when no live worker runs it.  An outbox is shown as postbus.outbox: ready is what waits for a
    relay, and workers are its relays.  --fail-on takes lag, age, dead, in_flight, scheduled, retrying, parked and
    workers, and looks at each subscription and the outbox: a check for cron and probes.
    """
    if watch is not None and is_place(watch):  # `--watch shop:bus` means the app
        words, watch = (watch, *words), "2s"
    limits = [Limit.parse(clause) for clause in fail_on.split(",") if clause.strip()]
    every = None if watch is None else max(0.1, Span().convert(watch, None, None))
    program, _ = without_app(words, app_dir, factory=factory)
    show = _show_json if as_json else _show_table
    return with_bus(program, lambda bus: _run(bus, every, limits, show))


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is to show; `error` is why the transport could not be asked, though its outbox could."""

    stats: Stats
    workers: Sequence[WorkerInfo]
    outbox: OutboxStats | None
    error: TransportError | None
    broken: Sequence[tuple[str, str]]


Show = Callable[[Bus, Seen], None]


async def _run(bus: Bus, every: float | None, limits: Sequence[Limit], show: Show) -> int:
    while True:
        seen = await _look(bus, limits)
        if every is not None and sys.stdout.isatty():
            click.clear()
        show(bus, seen)
        if every is None:
            if seen.error is not None:
                raise seen.error
            return CHECK_FAILED if seen.broken else 0
        await asyncio.sleep(every)


async def _look(bus: Bus, limits: Sequence[Limit]) -> Seen:
    outbox = None if bus.outbox is None else await bus.outbox.stats()
    stats, error = Stats(), None
    workers: Sequence[WorkerInfo] = ()
    try:
        stats, workers = await bus.stats(), await bus.workers()
    except TransportError as caught:
        if outbox is None:
            raise
        error = caught
    rows = [*stats.values(), *_row_of(outbox)]
    broken = [(s.name, limit.text) for s in rows for limit in limits if limit.broken_by(s)]
    return Seen(stats, workers, outbox, error, broken)


def _row_of(outbox: OutboxStats | None) -> Iterator[SubscriptionStats]:
    if outbox is not None:
        yield SubscriptionStats(
            name=OUTBOX, backlog=outbox.pending, oldest_age=outbox.oldest_age, dead=outbox.dead,
            workers=len(outbox.relays), paused=outbox.paused,
        )  # fmt: skip


_TITLES = (
    "subscription", ">ready", ">age", ">running", ">retry", ">later", ">parked", ">dead", ">workers", "state",
)  # fmt: skip


def _show_table(bus: Bus, seen: Seen) -> None:
    table = Table(_TITLES)
    for s in (*seen.stats.values(), *_row_of(seen.outbox)):
        late = bool(s.backlog) and not s.workers and not s.paused
        state = "paused" if s.paused else "waits" if late else "ok"
        alarm = [7] * bool(s.dead) + [9] * late
        table.add(
            s.name, s.backlog, age(s.oldest_age), s.in_flight, s.retrying, s.scheduled, s.parked, s.dead, s.workers,
            state, alarm=alarm,
        )  # fmt: skip
    table.show()
    lead = f"{time.strftime('%H:%M:%S')}  {bus!r}: {len(seen.stats)} subscriptions, {len(seen.workers)} workers"
    click.echo(click.style(lead, dim=True), color=colour())
    if seen.outbox is not None and seen.outbox.trouble:
        say(f"nothing can be relayed from the outbox: {seen.outbox.trouble}")
    for name, limit in seen.broken:
        say(f"{name}: {limit}")


def _show_json(_bus: Bus, seen: Seen) -> None:
    stats = seen.stats
    totals: dict[str, Any] = {
        "backlog": stats.backlog,
        "in_flight": stats.in_flight,
        "scheduled": stats.scheduled,
        "retrying": stats.retrying,
        "dead": stats.dead,
        "oldest_age": stats.oldest_age,
    }
    print_json(
        {
            "subscriptions": [of_stats(s) for s in stats.values()],
            "totals": totals,
            "workers": [of_worker(w) for w in seen.workers],
            "outbox": None if seen.outbox is None else of_outbox(seen.outbox),
            "broken_limits": [{"subscription": name, "limit": limit} for name, limit in seen.broken],
        }
    )
