"""`postbus worker`: runs an app's subscribers, in processes under a supervisor."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

import click

from ..errors import ConfigError
from ..logs import FORMATS, LEVELS, Logs
from ..supervisor import Supervisor
from .given import Span, takes_app, without_app
from .orders import Orders

__all__ = ["worker"]

_MINUTE = 60.0


def _setting(name: str, *flags: str, **options: Any) -> Callable[[Any], Any]:
    """An option that overrides the bus's own setting, also as POSTBUS_<SETTING>."""
    return click.option(
        *flags, name, envvar=[f"POSTBUS_WORKER_{name.upper()}", f"POSTBUS_{name.upper()}"], show_envvar=True, **options
    )


@click.command()
@takes_app()
@click.option("-w", "--workers", type=click.IntRange(1, 512), default=1, show_default=True, help="Worker processes.")
@_setting("concurrency", "-c", "--concurrency", type=click.IntRange(1), help="Deliveries at once in each process.")
@click.option("-s", "--subscription", "only", multiple=True, metavar="NAME", help="Run only this one; repeatable.")
@click.option("-x", "--exclude", multiple=True, metavar="NAME", help="Do not run this one; repeatable.")
@_setting("lease", "--lease", type=Span(), help="After so long the work of a vanished worker is taken over.")
@_setting(
    "grace", "--grace", "--shutdown-timeout", type=Span(), help="What runs at shutdown gets so long before it is cancelled."
)
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
@click.option("--max-messages", type=click.IntRange(1), help="End after so many deliveries, in each process.")
@click.option("-n", "--name", help="A name for people, shown with the worker's host and process.")
@click.option("--connect-timeout", type=Span(), default=30.0, show_default=True, help="How long to wait for the transport.")
@click.option("--loop", type=click.Choice(["auto", "asyncio", "uvloop"]), default="auto", show_default=True)
@click.option("-l", "--log-level", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--log-config", type=click.Path(exists=True, dir_okay=False), help="A JSON or INI file for logging.config.")
@click.option("--dry-run", is_flag=True, help="Print what would run, and end.")
def worker(words: tuple[str, ...], app_dir: str, factory: bool, workers: int, dry_run: bool, **options: Any) -> int:
    """Run the subscribers of APP until told to stop.

    The first SIGTERM or SIGINT stops claiming, hands back what has not started and waits for what runs; the second ends
    at once.  SIGHUP replaces the processes one by one.  SIGUSR1 writes what they do to the log.
    """
    program, _ = without_app(words, app_dir, factory)
    orders = Orders(place=program.place, app_dir=program.app_dir, factory=program.factory, **options)
    orders.logs.configure()
    return Supervisor(
        _command(orders), processes=workers, until_done=orders.burst or orders.max_messages is not None
    ).run()


def _command(orders: Orders) -> Callable[[int, int, bool], list[str]]:
    def command(index: int, descriptor: int, again: bool) -> list[str]:
        # One that had been ready waits for its transport as long as it takes: an outage ends no worker.
        patience = float("inf") if again else orders.connect_timeout
        told = dataclasses.asdict(dataclasses.replace(orders, connect_timeout=patience))
        return [sys.executable, "-m", "postbus.cli.process", str(descriptor), json.dumps(told)]

    return command
