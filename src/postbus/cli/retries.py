"""`postbus retries`: what failed and waits for another attempt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar
from uuid import UUID

import click

from ..bus import Bus
from ..event import Pattern, is_pattern, key_text, valid_name
from ..retrying import Retrying
from .events import event_id
from .given import as_json, takes_app, without_app
from .output import Table, confirm, print_json, progress, say
from .records import of_retry
from .session import with_bus

__all__ = ["retries"]

F = TypeVar("F", bound=Callable[..., Any])


def _filters(fn: F) -> F:
    for option in reversed(
        [
            click.option("--sub", help="Of this subscription."),
            click.option("--name", help="Of events of this name or pattern."),
            click.option("--key", help="Of events of this key."),
            click.option("--error", help="Whose last error's class or message holds this text."),
            click.option("--ids", default="", help="Of these events' ids, with commas between them."),
        ]
    ):
        fn = option(fn)
    return fn


def _acting(fn: F) -> F:
    fn = click.option("-y", "--yes", is_flag=True, help="Do not ask.")(fn)
    fn = click.option("--dry-run", is_flag=True, help="Say how many, and do nothing.")(fn)
    return _filters(click.option("--all", "everything", is_flag=True, help="All retries.")(fn))


@click.group()
def retries() -> None:
    """List what waits for another attempt, run it now, or let go of it."""


@retries.command("list")
@takes_app()
@_filters
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@as_json
def list_retries(
    words: tuple[str, ...], *, app_dir: str, factory: bool, limit: int, as_json: bool, **options: Any
) -> None:
    """List what waits for another attempt, of each subscription the soonest first."""
    program, _ = without_app(words, app_dir, factory=factory)
    sub, query = _query(options)

    async def gather(bus: Bus) -> list[Retrying]:
        return [one for name in await _subs(bus, sub) async for one in bus.retries.each(name, **query)][:limit]

    found = with_bus(program, gather)
    if as_json:
        for one in found:
            print_json(of_retry(one))
        return
    table = Table(["due at", "id", "subscription", "event", "key", ">attempt", "last error"])
    for one in found:
        error = f"{one.failure.error}: {one.failure.message}" if one.failure else None
        table.add(
            one.due_at, one.envelope.id, one.subscription, one.envelope.name, one.envelope.key, one.attempt, error
        )
    table.show()
    if len(found) == limit:
        say(f"The first {len(found)}: --limit shows more.")


@retries.command("run-now")
@takes_app("[APP] [ID]...")
@_acting
def run_now(words: tuple[str, ...], *, app_dir: str, factory: bool, **options: Any) -> None:
    """Make the next attempt now, instead of when it is due; IDs are events'."""
    _act("run", words, app_dir, factory=factory, **options)


@retries.command()
@takes_app("[APP] [ID]...")
@_acting
def discard(words: tuple[str, ...], *, app_dir: str, factory: bool, **options: Any) -> None:
    """Make no further attempt, and keep no dead letter; IDs are events'."""
    _act("discard", words, app_dir, factory=factory, **options)


def _query(options: dict[str, Any], ids: Sequence[str] = ()) -> tuple[str | None, dict[str, Any]]:
    """The subscription, and what of it; wrong words are told before anything is opened."""
    texts = [*ids, *(text.strip() for text in options["ids"].split(",") if text.strip())]
    chosen: tuple[UUID, ...] | None = tuple(event_id(text) for text in texts) or None
    sub, name, key = options["sub"], options["name"], options["key"]
    if sub is not None:
        valid_name(sub, "subscription name")
    if name is not None:
        Pattern(name) if is_pattern(name) else valid_name(name, "event name")
    if key is not None:
        key_text(key)
    return sub, {"ids": chosen, "name": name, "key": key, "error": options["error"]}


async def _subs(bus: Bus, sub: str | None) -> list[str]:
    return [sub] if sub is not None else [one.name for one in (await bus.stats()).values() if one.retrying]


def _act(
    what: Literal["run", "discard"], words: tuple[str, ...], app_dir: str, *, factory: bool, **options: Any
) -> None:
    program, ids = without_app(words, app_dir, factory=factory, more=True)
    sub, query = _query(options, ids)
    if sub is None and not options["everything"] and all(value is None for value in query.values()):
        raise click.UsageError(f"Say which to {what}: ids, a filter such as --sub or --name, or --all.")
    done_to = "run now" if what == "run" else "discarded"

    async def act(bus: Bus) -> int:
        counts = {name: await bus.retries.count(name, **query) for name in await _subs(bus, sub)}
        total = sum(counts.values())
        if options["dry_run"] or not total:
            say(f"{total:,} retries would be {done_to}" if options["dry_run"] else "No retry matches.")
            return 0
        confirm(
            f"{'Run' if what == 'run' else 'Discard'} {total:,} retries{' now' * (what == 'run')}?", yes=options["yes"]
        )
        method = bus.retries.run_now if what == "run" else bus.retries.discard
        done = 0
        with progress(total, done_to) as advance:
            for name, count in counts.items():
                done += await method(name, **query)
                advance(count)
        return done

    done = with_bus(program, act)
    if not options["dry_run"]:
        click.echo(f"{done:,} retries {done_to}")
