"""`postbus workers`: the worker processes that live, and what is asked of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ..bus import Bus
from ..transport import WorkerInfo
from ..wishes import Wish
from .given import as_json, takes_app, without_app
from .output import Table, print_json
from .records import of_worker
from .session import with_bus

__all__ = ["workers"]


@click.group()
def workers() -> None:
    """List worker processes, and ask one to be quiet, to go on, or to stop."""


@workers.command("list")
@takes_app()
@as_json
def list_workers(words: tuple[str, ...], *, app_dir: str, factory: bool, as_json: bool) -> None:
    """List the workers that live."""
    program, _ = without_app(words, app_dir, factory=factory)
    found: Sequence[WorkerInfo] = with_bus(program, lambda bus: bus.workers())
    if as_json:
        for one in found:
            print_json(of_worker(one))
        return
    table = Table(["worker", "state", ">busy", ">slots", "heartbeat", "since", "version", "runs"])
    for one in found:
        runs = ", ".join(one.subscriptions)
        table.add(one.owner, one.state, one.busy, one.concurrency, one.seen_at, one.started_at, one.version, runs)
    table.show()


@workers.command()
@takes_app("[APP] WORKER", required=True)
def quiet(words: tuple[str, ...], **options: Any) -> None:
    """Let WORKER claim nothing more, hand back what has not started, and end what runs; it stays."""
    _ask("quiet", "claims nothing more", words, **options)


@workers.command()
@takes_app("[APP] WORKER", required=True)
def resume(words: tuple[str, ...], **options: Any) -> None:
    """Let WORKER claim again."""
    _ask("resume", "claims again", words, **options)


@workers.command()
@takes_app("[APP] WORKER", required=True)
def stop(words: tuple[str, ...], **options: Any) -> None:
    """Let WORKER end as at a shutdown; its supervisor starts none in its place."""
    _ask("stop", "stops", words, **options)


def _ask(what: Wish, says: str, words: tuple[str, ...], *, app_dir: str, factory: bool) -> None:
    program, (owner,) = without_app(words, app_dir, factory=factory, names=1)

    async def act(bus: Bus) -> None:
        alive = [one.owner for one in await bus.workers()]
        if owner not in alive:
            have = f"there are {', '.join(alive)}" if alive else "there are none"
            raise click.ClickException(f"no worker is called {owner}: {have}")
        await bus.tell_worker(owner, what)

    with_bus(program, act)
    click.echo(f"{owner} {says} within a second or two")
