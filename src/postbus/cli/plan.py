"""`postbus worker --dry-run`: what a worker would run, and with which settings.  Opens nothing."""

from __future__ import annotations

import json
import sys

from ..isolate import Isolation
from . import guarded
from .orders import Orders
from .output import Table, age, document
from .process import make_worker

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Run as `python -m postbus.cli.plan ORDERS`."""
    orders = Orders(**json.loads(arguments[0]))
    return guarded(lambda: show(orders))


def show(orders: Orders) -> None:
    """Print the plan."""
    bus = orders.program.load()
    worker = make_worker(bus, orders, Isolation(orders.program, orders.logs))
    names = worker.info().subscriptions
    table = Table(["subscription", "events", "handler", ">concurrency", ">timeout", ">attempts", "notes"])
    for one in bus.subscribers:
        if one.name in names:
            notes = [word for word, so in (("ordered", one.ordered), ("own process", one.isolation == "process")) if so]
            table.add(
                one.name, ", ".join(one.interest.wants), one.label, one.concurrency, age(one.timeout),
                one.retry.attempts, ", ".join(notes),
            )  # fmt: skip
    table.show()
    settings = worker.settings
    document(
        {
            "bus": repr(bus),
            "concurrency": settings.concurrency,
            "lease": age(settings.lease),
            "grace": age(settings.grace),
        }
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
