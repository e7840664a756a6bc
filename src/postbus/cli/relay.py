"""`postbus relay`: carries what waits in an app's outbox to its transport, and runs no subscriber."""

from __future__ import annotations

from typing import Any

import click

from .given import Span, takes_app, without_app
from .orders import Orders
from .supervised import OURS, process_options, setting, supervise

__all__ = ["relay"]


@click.command()
@takes_app()
@setting("lease", "--lease", type=Span(), help="After so long another relay takes the place of one that vanished.")
@setting("grace", "--grace", "--shutdown-timeout", type=Span(), help="What is under way at shutdown has so long.")
@click.option("--burst", is_flag=True, help="End when nothing is left in the outbox.")
@process_options
def relay(words: tuple[str, ...], *, app_dir: str, factory: bool, **options: Any) -> int:
    """Carry the outbox of APP to its transport until told to stop.

    Every worker of a bus with an outbox does this beside its subscribers: this command is for those started with
    --no-relay, or where there are none.  One relay works at a time, and the others stand by; an outage of the transport
    is waited for, however long.  `postbus status` shows how the outbox stands.
    """
    program, _ = without_app(words, app_dir, factory=factory)
    own = {name: options.pop(name) for name in OURS if name in options}
    orders = Orders(place=program.place, app_dir=program.app_dir, factory=program.factory, relay="alone", **options)
    orders.logs.configure()
    return supervise(orders, own)
