"""`postbus setup`: what a deploy runs before traffic."""

from __future__ import annotations

import asyncio

import click

from ..failure import redacted
from ..logs import Logs
from .given import takes_app, without_app

__all__ = ["setup"]


@click.command()
@takes_app()
def setup(words: tuple[str, ...], *, app_dir: str, factory: bool) -> None:
    """Create what the transport needs and make APP's declarations current.

    Idempotent, and safe from several replicas at once.
    """
    program, _ = without_app(words, app_dir, factory=factory)
    Logs(level="warning").configure(redacted)
    bus = program.load()
    asyncio.run(bus.setup())
    click.echo(f"{bus!r} is ready: {len(bus.subscribers)} subscriptions declared")
