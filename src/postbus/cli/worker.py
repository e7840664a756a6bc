"""`postbus worker`: runs an app's subscribers, in processes under a supervisor."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import click

from .given import Span, takes_app, without_app
from .orders import Orders
from .supervised import OURS, process_options, setting, supervise

__all__ = ["worker"]


@click.command()
@takes_app()
@click.option("-w", "--workers", type=click.IntRange(1, 512), default=1, show_default=True, help="Worker processes.")
@setting("concurrency", "-c", "--concurrency", type=click.IntRange(1), help="Deliveries at once in each process.")
@click.option("-s", "--subscription", "only", multiple=True, metavar="NAME", help="Run only this one; repeatable.")
@click.option("-x", "--exclude", multiple=True, metavar="NAME", help="Do not run this one; repeatable.")
@setting("lease", "--lease", type=Span(), help="After so long the work of a vanished worker is taken over.")
@setting("grace", "--grace", "--shutdown-timeout", type=Span(), help="What runs at shutdown has so long to end.")
@setting(
    "journal", "--journal/--no-journal", default=None,
    help="Write down what happens, for charts, timelines and `bus.journal`.",
)  # fmt: skip
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
@click.option("--max-messages", type=click.IntRange(1), help="End after so many deliveries, in each process.")
@click.option("--no-relay", is_flag=True, help="Leave the bus's outbox to relays elsewhere.")
@process_options
@click.option("-r", "--reload", is_flag=True, help="Replace the processes when a Python file changes.")
@click.option("--reload-dir", multiple=True, type=click.Path(exists=True, file_okay=False), help="Watch here instead.")
@click.option("--dry-run", is_flag=True, help="Print what would run, and end.")
def worker(words: tuple[str, ...], *, app_dir: str, factory: bool, no_relay: bool, **options: Any) -> int:
    """Run the subscribers of APP until told to stop.

    The first SIGTERM or SIGINT stops claiming, hands back what has not started and waits for what runs; the second ends
    at once.  SIGHUP replaces the processes one by one.  SIGUSR1 writes what they do to the log.
    """
    program, _ = without_app(words, app_dir, factory=factory)
    own = {name: options.pop(name) for name in OURS}
    orders = Orders(place=program.place, app_dir=program.app_dir, factory=program.factory, **options)
    orders = dataclasses.replace(orders, relay="elsewhere" if no_relay else "beside")
    orders.logs.configure()
    if own["dry_run"]:
        told = json.dumps(dataclasses.asdict(orders))
        return subprocess.run([sys.executable, "-P", "-m", "postbus.cli.plan", told], check=False).returncode
    return supervise(orders, own)
