"""`postbus db`: the tables of a transport, an outbox and done marks, for people with migrations of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

import click

from ..bus import Bus
from ..errors import ConfigError
from ..failure import redacted
from ..logs import Logs
from ..migrating import Migrating
from .given import takes_app, without_app

__all__ = ["db"]

CHECK_FAILED = 4


@click.group()
def db() -> None:
    """Print, make or check an app's tables.

    An app makes its tables by itself when it is opened.  These commands are for those who deploy tables otherwise.
    """


@db.command()
@takes_app()
def sql(words: tuple[str, ...], *, app_dir: str, factory: bool) -> None:
    """Print the statements that make APP's tables.

    With transactions= in another database, that is asked what it is, and the table of done marks is printed, too.
    """

    async def run() -> None:
        for one in _parts(words, app_dir, factory=factory):
            if text := await one.sql():
                click.echo(text)

    asyncio.run(run())


@db.command()
@takes_app()
def apply(words: tuple[str, ...], *, app_dir: str, factory: bool) -> None:
    """Make what is missing of APP's tables.

    Idempotent, and safe from several replicas at once.
    """

    async def run() -> None:
        for one in _parts(words, app_dir, factory=factory):
            if not await one.missing():
                click.echo(f"{one.label}: nothing to do")
            else:
                await one.apply(lambda step, label=one.label: click.echo(f"{label}: {step}"))  # type: ignore[misc]

    asyncio.run(run())


@db.command()
@takes_app()
def check(words: tuple[str, ...], *, app_dir: str, factory: bool) -> int:
    """Look whether APP's tables, columns and indexes are there: exit 4, and name what is missing, when they are not."""

    async def run() -> int:
        code = 0
        for one in _parts(words, app_dir, factory=factory):
            missing = await one.missing()
            click.echo(f"{one.label}: {'missing ' + ', '.join(missing) if missing else 'all there'}")
            code = CHECK_FAILED if missing else code
        return code

    return asyncio.run(run())


class _Part(NamedTuple):
    """What has tables, with what to call it."""

    label: str
    sql: Callable[[], Awaitable[str]]
    missing: Callable[[], Awaitable[Sequence[str]]]
    apply: Callable[[Callable[[str], None]], Awaitable[None]]


def _parts(words: tuple[str, ...], app_dir: str, *, factory: bool) -> Sequence[_Part]:
    """All of them, the transport first.

    Raises:
        ConfigError: when there is none.
    """
    program, _ = without_app(words, app_dir, factory=factory)
    Logs(level="warning").configure(redacted)
    bus: Bus = program.load()
    transports = [("transport", bus.transport), *([("outbox", bus.outbox.transport)] if bus.outbox else [])]
    found = [
        _Part(label, partial(_printed, one), one.missing, one.apply)
        for label, one in transports
        if isinstance(one, Migrating)
    ]
    if (marks := bus.marks) is not None:
        here = bus.transport
        found.append(_Part("marks", partial(marks.sql, here), partial(marks.missing, here), marks.apply))
    if not found:
        raise ConfigError(f"{bus!r} has no tables: sqlite:// and postgresql:// have")
    return found


async def _printed(one: Migrating) -> str:
    return one.sql()
