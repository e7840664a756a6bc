"""`postbus subs`: durable subscriptions, whatever the code says now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from ..bus import Bus
from ..errors import UnknownSubscription
from ..event import valid_name
from ..transport import SubscriptionInfo
from .given import Span, as_json, takes_app, without_app
from .output import Table, confirm, moment, print_json, say
from .records import of_subscription
from .session import with_bus

__all__ = ["subs"]

_START = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE = 500

_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@click.group()
def subs() -> None:
    """List, pause, resume, rename, retire and rewind subscriptions."""


@subs.command("list")
@takes_app()
@as_json
def list_subscriptions(words: tuple[str, ...], *, app_dir: str, factory: bool, as_json: bool) -> None:
    """List the subscriptions that the transport holds."""
    program, _ = without_app(words, app_dir, factory=factory)
    found = with_bus(program, lambda bus: bus.subscriptions.list())
    if as_json:
        for info in found:
            print_json(of_subscription(info))
        return
    table = Table(["subscription", "events", "handler", "declared at", "state"])
    for info in found:
        words_of = [word for word, so in (("paused", info.paused), ("ordered", info.spec.ordered)) if so]
        state = ", ".join(words_of) or "ok"
        table.add(info.name, ", ".join(info.spec.wants), info.spec.handler, moment(info.declared_at), state)
    table.show()


@subs.command()
@takes_app("[APP] NAME", required=True)
def pause(words: tuple[str, ...], *, app_dir: str, factory: bool) -> None:
    """Hold back a subscription's deliveries; what is published is kept."""
    program, (name,) = without_app(words, app_dir, factory=factory, names=1)
    valid_name(name, "subscription name")
    with_bus(program, lambda bus: bus.subscriptions.pause(name))
    click.echo(f"{name} paused")


@subs.command()
@takes_app("[APP] NAME", required=True)
def resume(words: tuple[str, ...], *, app_dir: str, factory: bool) -> None:
    """Deliver again."""
    program, (name,) = without_app(words, app_dir, factory=factory, names=1)
    valid_name(name, "subscription name")
    with_bus(program, lambda bus: bus.subscriptions.resume(name))
    click.echo(f"{name} resumed")


@subs.command()
@takes_app("[APP] OLD NEW", required=True)
@_dry_run
def rename(words: tuple[str, ...], *, app_dir: str, factory: bool, dry_run: bool) -> None:
    """Give a subscription a new name, with all it holds.

    Rename the subscriber in the code too, or give it was='OLD'.
    """
    program, (old, new) = without_app(words, app_dir, factory=factory, names=2)
    for name in (old, new):
        valid_name(name, "subscription name")

    async def act(bus: Bus) -> None:
        await _known(bus, old)
        if not dry_run:
            await bus.subscriptions.rename(old, new)

    with_bus(program, act)
    click.echo(f"{old} {'would be' if dry_run else 'is'} renamed to {new}")


@subs.command()
@takes_app("[APP] NAME", required=True)
@_yes
@_dry_run
def retire(words: tuple[str, ...], *, app_dir: str, factory: bool, yes: bool, dry_run: bool) -> None:
    """Delete a subscription with all it holds, dead letters included."""
    program, (name,) = without_app(words, app_dir, factory=factory, names=1)
    valid_name(name, "subscription name")

    async def act(bus: Bus) -> int | None:
        await _known(bus, name)
        held = (await bus.stats())[name]
        waiting = held.backlog + held.in_flight + held.scheduled + held.retrying + held.parked_events
        what = f"{waiting:,} deliveries and {held.dead:,} dead letters"
        if dry_run:
            say(f"{name} would be retired with {what}")
            return None
        confirm(f"Retire {name} with {what}?", yes=yes)
        return await bus.subscriptions.retire(name)

    gone = with_bus(program, act)
    if gone is not None:
        click.echo(f"{name} retired; {gone:,} deliveries and dead letters went with it")


@subs.command()
@takes_app("[APP] NAME", required=True)
@click.option("--to", required=True, metavar="TIME", help="An ISO time, 2h for two hours ago, or start.")
@_yes
@_dry_run
def seek(words: tuple[str, ...], *, app_dir: str, factory: bool, to: str, yes: bool, dry_run: bool) -> None:
    """Deliver again, to one subscription only, the stored events published since TIME.

    What has not been kept cannot be delivered again: see the bus's retain=.
    """
    program, (name,) = without_app(words, app_dir, factory=factory, names=1)
    valid_name(name, "subscription name")
    since = _time(to)

    async def act(bus: Bus) -> int | None:
        info = await _known(bus, name)
        count = await _stored_since(bus, info, since)
        if dry_run:
            say(f"up to {count:,} events since {moment(since)} UTC would be delivered again to {name}")
            return None
        confirm(f"Deliver up to {count:,} events since {moment(since)} UTC again to {name}?", yes=yes)
        return await bus.subscriptions.seek(name, since)

    again = with_bus(program, act)
    if again is not None:
        click.echo(f"{again:,} events will be delivered again to {name}")


async def _known(bus: Bus, name: str) -> SubscriptionInfo:
    found = {info.name: info for info in await bus.subscriptions.list()}
    if name not in found:
        have = f"there are {', '.join(found)}" if found else "there are none"
        raise UnknownSubscription(f"no subscription is named {name!r}: {have}")
    return found[name]


async def _stored_since(bus: Bus, info: SubscriptionInfo, since: datetime) -> int:
    count, after = 0, None
    while page := await bus.events.list(limit=_PAGE, after=after):
        recent = [stored for stored in page if stored.envelope.time >= since]
        count += sum(1 for stored in recent if info.spec.takes(stored.envelope.name, stored.envelope.topic))
        after = page[-1].cursor
        if not recent:
            break
    return count


def _time(text: str) -> datetime:
    if text == "start":
        return _START
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) - timedelta(seconds=Span().convert(text, None, None))
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
