"""`postbus demo`: a real stream of events, to watch."""

from __future__ import annotations

from typing import Any

import click

from ..demo import DemoOptions, run
from .given import Span

__all__ = ["demo"]


@click.command()
@click.option("--seconds", type=Span(), default=50.0, show_default=True, help="How long the storm takes.")
@click.option("--speed", type=click.FloatRange(1), help="Seconds of the storm in one of ours.")
@click.option("--headless", is_flag=True, help="Lines of text instead of a screen.")
@click.option(
    "--dashboard/--no-dashboard", default=True, show_default=True, help="Serve the dashboard beside the screen."
)
@click.option("--url", help="The transport; default a SQLite file in a temporary folder.")
@click.option("--keep", is_flag=True, help="Go on after the storm until Ctrl-C, and keep the folder.")
@click.option("--workers", type=click.IntRange(1, 32), default=3, show_default=True, help="Worker processes.")
@click.option("--seed", type=int, default=2013, show_default=True, help="Of what luck decides.")
@click.option("--json", "as_json", is_flag=True, help="Print the ledger as JSON.")
def demo(*, as_json: bool, **options: Any) -> int:
    """Watch New York's airports in the blizzard of February 2013, on a real bus with real workers.

    It ends with a ledger of every event and every delivery, and exits with 1 if that does not add up.
    """
    return run(DemoOptions(json=as_json, **options))
