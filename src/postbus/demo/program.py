"""Puts a run together, plays it, and reckons: everything that `postbus demo` does."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import shlex
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol, TextIO
from uuid import UUID, uuid4

from postbus import Bus, ConfigError, PostbusError

from .airport import AT_ONCE, DESKS, MEANT_FOR, bus_at
from .announcer import Announcer
from .board import accepted_events, create_tables, drop_tables, open_board
from .crew import Crew, CrewFailed
from .director import Director
from .flights import read_flights, read_weather
from .ledger import Evidence, Holding, Ledger, reckon
from .outside import Outside
from .place import VARIABLE, Place
from .plain import Lines
from .records import Reader
from .report import as_json, as_text
from .sight import Sight, strip_of
from .stage import Stage, Stuck
from .storm import happenings, window
from .watch import Watch

__all__ = ["DemoOptions", "run"]

OK, FAILED, INTERRUPTED = 0, 1, 130
STEPS = 64
GRACE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """How to run the demo.

    Attributes:
        seconds: how long the storm takes.
        speed: seconds of the storm in one of ours; default whatever brings all four days into `seconds`.  Given
            together with `seconds`, only as much of the storm is played as fits.
        headless: lines of text instead of a screen; also when there is no terminal, or no rich.
        dashboard: serve the dashboard beside the screen, and open it in a browser where there is one.
        url: the transport; default a SQLite file in a temporary folder.
        keep: go on after the storm until Ctrl-C, and keep the folder.
        json: print the ledger as JSON, and everything else to stderr.
        seed: of the outside services' waiting times.
        workers: how many worker processes.

    Raises:
        ConfigError: when a value makes no sense.
    """

    seconds: float = 50.0
    speed: float | None = None
    headless: bool = False
    dashboard: bool = True
    url: str | None = None
    keep: bool = False
    json: bool = False
    seed: int = 2013
    workers: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.seconds <= 86_400:
            raise ConfigError(f"seconds={self.seconds!r}: expected a number from 1 to 86400")
        if self.speed is not None and not 1 <= self.speed <= 1e6:
            raise ConfigError(f"speed={self.speed!r}: expected how often faster than life, from 1 to 1000000")
        if not 1 <= self.workers <= 32:
            raise ConfigError(f"workers={self.workers!r}: expected a whole number from 1 to 32")
        if self.url is not None and self.url.startswith("memory:"):
            raise ConfigError(
                f"url={self.url!r} lives in one process, and the demo's workers are processes of their own"
            )


class _View(Protocol):
    """Shows one sight after another."""

    def show(self, sight: Sight) -> None: ...


def run(options: DemoOptions, *, out: TextIO | None = None, err: TextIO | None = None) -> int:
    """Run the demo; return 0 when its ledger adds up, 1 when it does not, 130 when it was interrupted and adds up."""
    out, err = out or sys.stdout, err or sys.stderr
    folder = Path(tempfile.mkdtemp(prefix="postbus-demo-"))
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(folder)  # for in-process handlers whose board is not in the bus's database
    code = FAILED
    try:
        code = asyncio.run(_perform(options, folder, out, err))
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
        began = any((folder / "records").glob("*.log"))
        if (code == FAILED and began) or options.keep:
            print(f"\nThe board, the records and the workers' logs are in {folder}", file=err)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return code


async def _perform(options: DemoOptions, folder: Path, out: TextIO, err: TextIO) -> int:
    told = happenings(read_flights())
    pace = window(told, seconds=options.seconds, speed=options.speed)
    async with _opened(options, folder) as (place, outside, bus, connection), _pages(options, bus, out) as address:
        crew = Crew(folder, options.workers)
        watch = Watch(bus, Reader(place.records))
        announcer = Announcer(bus, connection, enlists=place.enlists)
        with _view(options, out, err) as view:
            stage = Stage(
                pace=pace,
                told=told,
                strip=strip_of(told, STEPS),
                weather=read_weather(),
                connection=connection,
                announcer=announcer,
                outside=outside,
                watch=watch,
                show=view.show,
                tries=lambda: _tries(folder, watch, address),
            )
            director = Director(
                bus=bus,
                crew=crew,
                outside=outside,
                announcer=announcer,
                watch=watch,
                size=options.workers,
                tell=stage.tell,
            )
            broken = await _play(stage, director, crew, options)
        watch.read()
        ledger = reckon(await _evidence(bus, connection, watch, announcer, outside))
        if options.url is not None and ledger.adds_up and not options.keep:
            await _leave_nothing(bus, connection)
    _report(options, ledger, broken, stage, out)
    if broken or not ledger.adds_up:
        return FAILED
    return INTERRUPTED if stage.interrupted and not options.keep else OK


@asynccontextmanager
async def _opened(options: DemoOptions, folder: Path) -> AsyncIterator[tuple[Place, Outside, Bus, sqlite3.Connection]]:
    """The folder, the outside services, the bus and the board."""
    (folder / "records").mkdir()
    outside = Outside(folder, options.seed)
    try:
        place = Place(
            folder=folder,
            url=options.url or f"sqlite:///{(folder / 'bus.db').as_posix()}",
            namespace=f"demo-{uuid4().hex[:8]}" if options.url else "postbus",
            port=outside.port(),
        )
        place.save()
        (folder / "env").write_text(f"export {VARIABLE}={shlex.quote(str(folder))} POSTBUS_APP=postbus.demo.app:bus\n")
        async with bus_at(place) as bus:
            connection = open_board(place.board)
            try:
                create_tables(connection)
                yield place, outside, bus, connection
            finally:
                connection.close()
    finally:
        outside.stop()


async def _play(stage: Stage, director: Director, crew: Crew, options: DemoOptions) -> str | None:
    """Play until the end or Ctrl-C; return what broke it off, if anything did."""
    stage.tell(stage.greeting)
    stage.tell(f"{options.workers} workers, {len(MEANT_FOR)} subscriptions: each gets its own copy of an event")
    crew.start()
    try:
        with _interrupts(stage.interrupt):
            await stage.play(director, stay=options.keep)
    except (Stuck, CrewFailed, PostbusError) as error:
        return str(error)
    finally:
        await crew.dismiss(GRACE)
    return None


async def _evidence(
    bus: Bus, connection: sqlite3.Connection, watch: Watch, announcer: Announcer, outside: Outside
) -> Evidence:
    """Collect what everybody wrote down; the workers have ended."""
    dead: dict[str, set[UUID]] = {name: set() for name in MEANT_FOR}
    async for letter in bus.dead.each():
        dead.setdefault(letter.subscription, set()).add(letter.envelope.id)
    stored = await _stored(bus)
    return Evidence(
        published=accepted_events(connection),
        withdrawn=announcer.withdrawn,
        entries=watch.entries,
        served=outside.served(),
        holdings=[
            Holding(subscription=name, meant_for=names, dead=dead[name], stored=stored[name], desk=DESKS.get(name))
            for name, names in MEANT_FOR.items()
        ],
        killed=watch.killed,
        at_once=AT_ONCE,
    )


async def _stored(bus: Bus) -> dict[str, set[UUID]]:
    """Which events each subscription is not done with, dead letters aside."""
    stored: dict[str, set[UUID]] = {name: set() for name in MEANT_FOR}
    after: str | None = None
    while page := await bus.events.list(limit=500, after=after):
        for event in page:
            for name, state in event.states.items():
                if state != "dead":
                    stored.setdefault(name, set()).add(event.envelope.id)
        after = page[-1].cursor
    return stored


async def _leave_nothing(bus: Bus, connection: sqlite3.Connection) -> None:
    """In a store that is not ours, what this run put there goes with it."""
    for name in MEANT_FOR:
        await bus.subscriptions.retire(name)
    drop_tables(connection)


def _report(options: DemoOptions, ledger: Ledger, broken: str | None, stage: Stage, out: TextIO) -> None:
    if options.json:
        print(as_json(ledger, broken=broken, seconds=round(stage.elapsed, 1)), file=out)
        return
    print(file=out)
    print(as_text(ledger), file=out)
    if broken:
        print(f"\nIt was broken off: {broken}", file=out)
    elif stage.interrupted and not options.keep:
        print("\nIt was interrupted: what is stored would wait for the next worker.", file=out)
    else:
        print(f"\nThe program you watched: {Path(__file__).with_name('airport.py')}", file=out)
        if not options.keep:
            print("To try things on it, at leisure: postbus demo --keep", file=out)


@asynccontextmanager
async def _pages(options: DemoOptions, bus: Bus, out: TextIO) -> AsyncIterator[str | None]:
    """The dashboard's address, where somebody watches and what it needs is installed."""
    needs = ("starlette", "jinja2", "sse_starlette", "uvicorn")
    watched = not options.headless and not options.json and out.isatty()
    if not options.dashboard or not watched or not all(importlib.util.find_spec(name) for name in needs):
        yield None
        return
    async with importlib.import_module("postbus.demo.pages").pages_of(bus, browse=True) as address:
        yield address


def _tries(folder: Path, watch: Watch, address: str | None) -> tuple[str, ...]:
    """Three things to do while it runs."""
    victim = next((member.pid for member in reversed(watch.roster.living())), None)
    pages = () if address is None else (f"the dashboard is at {address}",)
    return (
        *pages,
        f"three things to try in another terminal, after  . {folder}/env",
        "  postbus status --watch           the same figures from outside",
        f"  kill -9 {victim or 'PID'}".ljust(35) + "a worker dies, and nothing is lost",
        "  postbus dead list                what was given up on, and why",
    )


@contextmanager
def _view(options: DemoOptions, out: TextIO, err: TextIO) -> Iterator[_View]:
    """The screen where there is one, else lines."""
    where = err if options.json else out
    if not options.headless and where.isatty() and importlib.util.find_spec("rich") is not None:
        screen: AbstractContextManager[_View] = importlib.import_module("postbus.demo.screen").Screen(where)
    else:
        screen = Lines(where)
    with screen as view:
        yield view


@contextmanager
def _interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C (or SIGTERM) end the run in order; the second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        loop.call_soon_threadsafe(stop)

    for number in before:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
