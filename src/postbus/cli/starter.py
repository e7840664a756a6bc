"""`postbus init`: a small app to start from."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["STARTER", "init"]

STARTER = '''\
"""A small shop on an event bus.  Publish:  python {file}   Work:  postbus worker {module}:bus"""

from dataclasses import dataclass

from postbus import Bus, Context, Retry, event


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int


bus = Bus("sqlite:///{module}.db")


@bus.on(OrderPlaced)  # in-process: part of publish()
def reserve_stock(event: OrderPlaced) -> None:
    print("reserved for", event.order_id)


@bus.subscriber(OrderPlaced, retry=Retry(attempts=5))  # in a worker, with retries and dead letters
async def send_receipt(event: OrderPlaced, context: Context) -> None:
    print("receipt", event.order_id, event.amount, context.id)


if __name__ == "__main__":
    with bus:
        print("published", bus.publish_sync(OrderPlaced("o-1", 4200)).id)
'''


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="shop.py")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def init(file: Path, *, force: bool) -> None:
    """Write a small app to FILE, shop.py by default."""
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise click.BadParameter(f"{str(file)!r} is no module: expected such as shop.py")
    if file.exists() and not force:
        raise click.ClickException(f"{file} is there already: pass --force to overwrite it, or another name")
    file.write_text(STARTER.format(file=file.name, module=file.stem), "utf-8")
    click.echo(f"{file} written.  Next:\n\n    postbus worker {file.stem}:bus")
    click.echo(f"    python {file.name}    # in another terminal")
