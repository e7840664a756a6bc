"""`postbus events`: what a program declares, and what its transport still holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from ..bus import Bus
from ..event import Pattern, is_pattern, mark_of, valid_name
from .given import Span, as_json, takes_app, without_app
from .output import Table, document, moment, print_json
from .records import of_envelope, of_stored, payload_of
from .session import with_bus

__all__ = ["event_id", "events"]


class _OrDeclared(click.Group):
    """`postbus events shop:bus` is `postbus events declared shop:bus`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["declared", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_OrDeclared)
def events() -> None:
    """List declared and stored events.

    Without a sub-command: what APP declares.
    """


@events.command()
@takes_app()
@as_json
def declared(words: tuple[str, ...], *, app_dir: str, factory: bool, as_json: bool) -> None:
    """List the events that APP declares, and who takes them."""
    program, _ = without_app(words, app_dir, factory=factory)
    bus = program.load()
    found = [_declaration(bus, name, event_type) for name, event_type in sorted(_types(bus).items())]
    if as_json:
        for one in found:
            print_json(one)
        return
    table = Table(["event", ">version", "topic", "class", "handlers", "subscriptions"])
    for one in found:
        table.add(
            one["name"], one["version"], _topic(one), one["class"], ", ".join(one["handlers"]) or None,
            ", ".join(one["subscriptions"]) or None,
        )  # fmt: skip
    table.show()


def _topic(one: dict[str, Any]) -> str | None:
    return one["topic"] if (one["partitions"] or 1) == 1 else f"{one['topic']} in {one['partitions']} logs"


def _types(bus: Bus) -> dict[str, type[Any] | None]:
    """Every event named in the program: with its class, or None where it is known by name or pattern only."""
    found: dict[str, type[Any] | None] = {}
    for interest in [*(h.interest for h in bus.handlers), *(s.interest for s in bus.subscribers)]:
        found |= dict.fromkeys([*interest.names, *(p.text for p in interest.patterns)] - found.keys())
    return found | dict(bus.catalog.types())


def _declaration(bus: Bus, name: str, event_type: type[Any] | None) -> dict[str, Any]:
    mark = None if event_type is None else mark_of(event_type)

    def takes(interest: Any) -> bool:
        return name in interest.wants or (not is_pattern(name) and interest.type_for(name) is not None)

    return {
        "name": name,
        "version": None if mark is None else mark.version,
        "topic": None if mark is None else mark.topic,
        "partitions": None if mark is None else mark.partitions,
        "class": None if event_type is None else f"{event_type.__module__}.{event_type.__qualname__}",
        "handlers": [h.label for h in bus.handlers if takes(h.interest)],
        "subscriptions": [s.name for s in bus.subscribers if takes(s.interest)],
    }


@events.command("list")
@takes_app()
@click.option("--name", help="Only events of this name.")
@click.option("--key", help="Only events of this key.")
@click.option("--correlation", "correlation_id", help="Only events of this correlation id.")
@click.option("--newer-than", type=Span(), help="Published not longer ago than such as 15m or 2h.")
@click.option("--older-than", type=Span(), help="Published longer ago than such as 2h or 7d.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--after", help="Those behind this cursor, which --json prints.")
@as_json
def list_events(
    words: tuple[str, ...], *, app_dir: str, factory: bool, limit: int, after: str | None, as_json: bool, **query: Any
) -> None:
    """List stored events, newest first, and where each subscription stands with them."""
    program, _ = without_app(words, app_dir, factory=factory)
    if query["name"] is not None:
        Pattern(query["name"]) if is_pattern(query["name"]) else valid_name(query["name"], "event name")
    for option, field in (("newer_than", "since"), ("older_than", "before")):
        ago = query.pop(option)
        query[field] = None if ago is None else datetime.now(UTC) - timedelta(seconds=ago)
    given = {name: value for name, value in query.items() if value is not None}
    found = with_bus(program, lambda bus: bus.events.list(limit=limit, after=after, **given))
    if as_json:
        for stored in found:
            print_json(of_stored(stored))
        return
    table = Table(["time", "id", "event", "key", ">bytes", "where it stands"])
    for stored in found:
        envelope = stored.envelope
        states = ", ".join(f"{name}: {state}" for name, state in sorted(stored.states.items()))
        size = len(envelope.body)
        table.add(moment(envelope.time), envelope.id, envelope.name, envelope.key, size, states or "done")
    table.show()


@events.command()
@takes_app("[APP] ID", required=True)
@as_json
def show(words: tuple[str, ...], *, app_dir: str, factory: bool, as_json: bool) -> None:
    """Show one stored event with its payload."""
    program, (text,) = without_app(words, app_dir, factory=factory, names=1)
    wanted = event_id(text)

    async def look(bus: Bus) -> dict[str, Any]:
        stored = await bus.events.get(wanted)
        if stored is None:
            raise click.ClickException(f"no event {wanted} is stored: every subscription may be done with it")
        envelope = stored.envelope
        return {**of_envelope(envelope), "states": dict(stored.states), **payload_of(envelope, bus.catalog)}

    found = with_bus(program, look)
    if as_json:
        print_json(found)
    else:
        document(found)


def event_id(text: str) -> UUID:
    """Read an id.

    Raises:
        click.BadParameter: when it is none.
    """
    try:
        return UUID(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no id: expected a UUID, such as `list` shows") from None
