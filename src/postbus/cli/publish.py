"""`postbus publish`: one event from the command line, or a file of them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from ..bus import Bus
from ..envelope import checked_headers
from ..errors import InvalidName, PostbusError
from ..event import RawEvent, key_text, valid_name
from .events import event_id
from .given import Rate, Span, takes_app, without_app
from .output import print_json, progress, say
from .records import of_envelope
from .session import with_bus

__all__ = ["publish"]

_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One event to be published."""

    name: str
    payload: Any
    key: str | None
    id: UUID | None = None
    headers: tuple[tuple[str, str], ...] = ()

    def event(self, bus: Bus) -> object:
        """As the class that the program declares for this name, so that a payload that does not fit is refused here."""
        raw = RawEvent(self.name, self.payload, key=self.key)
        declared = bus.catalog.types().get(self.name)
        return raw if declared is None else raw.decode(declared)


@click.command()
@takes_app("[APP] NAME [JSON|-]")
@click.option("--key", help="The aggregate's id; default what the event's class says.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Travels with it; repeatable.")
@click.option("--id", "wanted_id", help="A UUID: the transport stores an id once.")
@click.option("--delay", type=Span(), help="Not delivered before so long.")
@click.option("--file", "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), help="JSON lines.")
@click.option("--rate", type=Rate(), help="At most so many a second, such as 100/s.")
@click.option("--json", "as_json", is_flag=True, help="Print what was published as JSON.")
def publish(
    words: tuple[str, ...], *, app_dir: str, factory: bool, file: str | None, as_json: bool, **options: Any
) -> int:
    """Publish an event NAME with a JSON payload; '-' reads it from stdin.

    With --file, each line is the payload of an event NAME; without NAME, each line is an object with name, and payload,
    key, id and headers where there are any.  Handlers of APP run as part of publishing, as they do in APP.
    """
    names = 0 if file is not None else 1
    program, rest = without_app(words, app_dir, factory=factory, names=names, more=True)
    if len(rest) > 2 or (file is not None and len(rest) > 1):
        raise click.UsageError(f"Got unexpected extra argument {rest[-1]!r}.")
    name = valid_name(rest[0], "event name") if rest else None
    headers = _headers(options["headers"])
    if options["key"] is not None:
        key_text(options["key"])
    if file is not None:
        wanted = _from_file(file, name, options["key"])
        return with_bus(program, lambda bus: _publish_all(bus, wanted, headers, options), declare=True)
    one = Wanted(
        name=name or "", payload=_payload(rest[1] if len(rest) > 1 else None), key=options["key"],
        id=None if options["wanted_id"] is None else event_id(options["wanted_id"]),
    )  # fmt: skip

    async def send(bus: Bus) -> dict[str, Any]:
        event = one.event(bus)
        return of_envelope(await bus.publish(event, key=one.key, id=one.id, headers=headers, delay=options["delay"]))

    sent = with_bus(program, send, declare=True)
    print_json(sent) if as_json else click.echo(sent["id"])
    return 0


def _headers(texts: Sequence[str]) -> dict[str, str] | None:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is no header: expected NAME=VALUE")
        pairs[name] = value
    return checked_headers(pairs)


def _payload(text: str | None) -> Any:
    if text is None:
        return None
    return _json(sys.stdin.read() if text == "-" else text, "the payload")


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{what} is no JSON: {error}") from error


# -- files


def _from_file(file: str, name: str | None, key: str | None) -> list[Wanted]:
    """Read and check all of it first: half a file published helps nobody."""
    text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    wanted: list[Wanted] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            what = f"line {number} of {file}"
            wanted.append(_from_line(_json(line, what), name, key, what))
    return wanted


def _from_line(data: Any, name: str | None, key: str | None, what: str) -> Wanted:
    try:
        if name is not None:
            return Wanted(name=name, payload=data, key=key)
        if not isinstance(data, dict) or "name" not in data:
            raise click.BadParameter(f"{what} names no event: pass NAME, or give each line a name and a payload")
        return Wanted(
            name=valid_name(data["name"], "event name"),
            payload=data.get("payload"),
            key=key_text(data.get("key")) if key is None else key,
            id=None if data.get("id") is None else event_id(str(data["id"])),
            headers=tuple((checked_headers(data.get("headers")) or {}).items()),
        )
    except InvalidName as error:
        raise InvalidName(f"{what}: {error}") from error


async def _publish_all(
    bus: Bus, wanted: Sequence[Wanted], headers: dict[str, str] | None, options: dict[str, Any]
) -> int:
    """In order, in batches; says how far it came when it has to stop."""
    rate, done, began = options["rate"], 0, time.monotonic()
    try:
        with progress(len(wanted), "published") as advance:
            for batch in _batches(wanted, _BATCH if rate is None else max(1, min(_BATCH, int(rate / 4)))):
                if rate is not None:
                    await asyncio.sleep(max(0.0, began + done / rate - time.monotonic()))
                await _publish_batch(bus, batch, headers, options["delay"])
                done += len(batch)
                advance(len(batch))
    except PostbusError as error:
        error.add_note(f"{done} of {len(wanted)} events were published before this")
        say(f"{done:,} of {len(wanted):,} events published; the batch behind them was not, or not wholly")
        raise
    click.echo(f"{done:,} events published")
    return 0


async def _publish_batch(
    bus: Bus, batch: Sequence[Wanted], headers: dict[str, str] | None, delay: float | None
) -> None:
    first = batch[0]
    merged = {**dict(first.headers), **(headers or {})} or None
    if first.id is not None:
        for one in batch:
            await bus.publish(one.event(bus), key=one.key, id=one.id, headers=merged, delay=delay)
    else:
        await bus.publish_many([one.event(bus) for one in batch], key=first.key, headers=merged, delay=delay)


def _batches(wanted: Sequence[Wanted], size: int) -> Iterator[list[Wanted]]:
    """Neighbours that can leave as one batch: same key and headers, and no id of their own."""
    for _, group in groupby(wanted, key=lambda one: (one.headers, one.id, one.key)):
        alike = list(group)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]
