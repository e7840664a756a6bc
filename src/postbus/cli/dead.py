"""`postbus dead`: what was buried, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any, Literal, TextIO, TypeVar
from uuid import UUID

import click

from ..bus import Bus
from ..delivery import DeadLetter
from ..event import Pattern, is_pattern, key_text, valid_name
from .events import event_id
from .given import Rate, Span, as_json, takes_app, without_app
from .output import Table, confirm, document, print_json, progress, say
from .records import of_letter, payload_of
from .session import with_bus

__all__ = ["dead"]

F = TypeVar("F", bound=Callable[..., Any])

_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Which dead letters the options name."""

    sub: str | None
    name: str | None
    key: str | None
    error: str | None
    reason: str | None
    newer_than: float | None
    older_than: float | None
    ids: tuple[UUID, ...]
    limit: int | None
    group: str | None = None
    everything: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidName before anything is opened."""
        if self.sub is not None:
            valid_name(self.sub, "subscription name")
        if self.name is not None:
            Pattern(self.name) if is_pattern(self.name) else valid_name(self.name, "event name")
        if self.key is not None:
            key_text(self.key)

    @property
    def named(self) -> bool:
        """Whether anything narrows it down."""
        narrowed = (
            self.sub,
            self.name,
            self.key,
            self.error,
            self.reason,
            self.newer_than,
            self.older_than,
            self.group,
        )
        return bool(self.ids) or any(one is not None for one in narrowed)

    async def letters(self, bus: Bus) -> AsyncIterator[DeadLetter]:
        """All of them, oldest burial first."""
        query: dict[str, Any] = {"name": self.name, "key": self.key, "error": self.error, "reason": self.reason}
        query["ids"] = self.ids or None
        for field, ago in (("since", self.newer_than), ("before", self.older_than)):
            if ago is not None:
                query[field] = datetime.now(UTC) - timedelta(seconds=ago)
        count = 0
        async for letter in bus.dead.each(self.sub, group=self.group, **query):
            yield letter
            count += 1
            if count == self.limit:
                return


def _filters(fn: F) -> F:
    for option in reversed(
        [
            click.option("--sub", help="Of this subscription."),
            click.option("--name", help="Of events of this name or pattern."),
            click.option("--key", help="Of events of this key."),
            click.option("--error", help="Whose error's class or message holds this text."),
            click.option("--reason", help="Whose reason holds this text."),
            click.option("--group", help="Of this group, as `postbus dead groups` names it."),
            click.option("--newer-than", type=Span(), help="Buried not longer ago than such as 15m or 2h."),
            click.option("--older-than", type=Span(), help="Buried longer ago than such as 2h or 7d."),
            click.option("--ids", default="", help="These ids, with commas between them."),
        ]
    ):
        fn = option(fn)
    return fn


def _acting(fn: F) -> F:
    for option in reversed(
        [
            click.option("--limit", type=click.IntRange(1), help="At most so many, the oldest first."),
            click.option("--all", "everything", is_flag=True, help="All dead letters."),
            click.option("--rate", type=Rate(), help="At most so many a second, such as 100/s."),
            click.option("--dry-run", is_flag=True, help="Say how many, and do nothing."),
            click.option("-y", "--yes", is_flag=True, help="Do not ask."),
        ]
    ):
        fn = option(fn)
    return _filters(fn)


@click.group()
def dead() -> None:
    """List, group, show, amend, replay, discard and export dead letters."""


@dead.command("list")
@takes_app()
@_filters
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@as_json
def list_letters(words: tuple[str, ...], *, app_dir: str, factory: bool, as_json: bool, **options: Any) -> None:
    """List dead letters, oldest burial first."""
    program, _ = without_app(words, app_dir, factory=factory)
    letters = with_bus(program, _gather(_chosen(options)))
    if as_json:
        for letter in letters:
            print_json(of_letter(letter))
        return
    table = Table(["buried at", "id", "subscription", "event", "key", ">attempts", "reason", "error"])
    for letter in letters:
        failure = letter.failure
        table.add(
            letter.buried_at, letter.id, letter.subscription, letter.envelope.name, letter.envelope.key,
            letter.attempts, letter.reason, f"{failure.error}: {failure.message}" if failure else None,
        )  # fmt: skip
    table.show()
    if len(letters) == options["limit"]:
        say(f"The first {len(letters)}: --limit shows more.")


@dead.command()
@takes_app()
@click.option("--sub", help="Of this subscription.")
@as_json
def groups(words: tuple[str, ...], *, app_dir: str, factory: bool, sub: str | None, as_json: bool) -> None:
    """List what went wrong, and how often: by subscription, error and the shape of its message."""
    program, _ = without_app(words, app_dir, factory=factory)
    found = with_bus(program, lambda bus: bus.dead.groups(sub))
    if as_json:
        for group in found:
            print_json(asdict(group))
        return
    table = Table([">letters", "group", "subscription", "error", "shape", "first", "last"])
    for group in found:
        table.add(
            group.count, group.id, group.subscription, group.error or None, group.shape, group.first_at, group.last_at
        )
    table.show()


@dead.command()
@takes_app("[APP] ID", required=True)
@click.option(
    "--file", "payload", type=click.File("r", "utf-8"), default="-", help="The payload as JSON; default stdin."
)
@click.option("--replay", "again", is_flag=True, help="Replay it at once.")
def amend(words: tuple[str, ...], *, app_dir: str, factory: bool, payload: TextIO, again: bool) -> None:
    """Put another payload into a dead letter, for its subscription only; its event gets a new id."""
    program, (text,) = without_app(words, app_dir, factory=factory, names=1)
    wanted = event_id(text)
    try:
        given = json.load(payload)
    except ValueError as error:
        raise click.ClickException(f"the payload is no JSON: {error}") from error

    async def act(bus: Bus) -> DeadLetter:
        letter = await bus.dead.amend(wanted, given)
        if again:
            await bus.dead.replay(letter.subscription, [letter.id])
        return letter

    letter = with_bus(program, act)
    click.echo(f"{letter.envelope.id} takes the place of the event{', and is delivered again' if again else ''}")


@dead.command()
@takes_app("[APP] ID", required=True)
@as_json
def show(words: tuple[str, ...], *, app_dir: str, factory: bool, as_json: bool) -> None:
    """Show one dead letter with its payload and traceback; ID is its own or its event's."""
    program, (text,) = without_app(words, app_dir, factory=factory, names=1)
    wanted = event_id(text)

    async def look(bus: Bus) -> dict[str, Any]:
        letter = await bus.dead.get(wanted)
        if letter is None:
            raise click.ClickException(f"there is no dead letter {wanted}")
        return {**of_letter(letter), **payload_of(letter.envelope, bus.catalog), "traceback": letter.error}

    found = with_bus(program, look)
    if as_json:
        print_json(found)
    else:
        document(found)


@dead.command()
@takes_app("[APP] [ID]...")
@_acting
@click.option("--force", is_flag=True, help="Also what was done before: its effects happen twice.")
def replay(words: tuple[str, ...], *, app_dir: str, factory: bool, **options: Any) -> None:
    """Deliver dead letters again, to the subscription that buried them only, with no attempt spent."""
    _act("replay", words, app_dir, factory=factory, **options)


@dead.command()
@takes_app("[APP] [ID]...")
@_acting
def discard(words: tuple[str, ...], *, app_dir: str, factory: bool, **options: Any) -> None:
    """Delete dead letters for good."""
    _act("discard", words, app_dir, factory=factory, **options)


@dead.command()
@takes_app()
@_filters
@click.option("--limit", type=click.IntRange(1), help="At most so many, the oldest first.")
@click.option("-o", "--output", type=click.File("w", "utf-8", lazy=True), default="-", help="Where to; default stdout.")
def export(words: tuple[str, ...], *, app_dir: str, factory: bool, output: TextIO, **options: Any) -> None:
    """Write dead letters as JSON lines: payload, bytes, headers, error.  `postbus publish --file` reads them."""
    program, _ = without_app(words, app_dir, factory=factory)
    chosen = _chosen(options)

    async def write(bus: Bus) -> int:
        count = 0
        async for letter in chosen.letters(bus):
            record = {**of_letter(letter), **payload_of(letter.envelope, bus.catalog), "traceback": letter.error}
            click.echo(json.dumps({**record.pop("event"), **record, "letter": record["id"]}, default=str), file=output)
            count += 1
        return count

    say(f"{with_bus(program, write):,} dead letters exported")


def _chosen(options: dict[str, Any], ids: Sequence[str] = ()) -> Chosen:
    texts = [*ids, *(text.strip() for text in options.pop("ids").split(",") if text.strip())]
    known = {name: options[name] for name in Chosen.__dataclass_fields__ if name in options}
    return Chosen(**known, ids=tuple(event_id(text) for text in texts))


def _gather(chosen: Chosen) -> Callable[[Bus], Any]:
    async def gather(bus: Bus) -> list[DeadLetter]:
        return [letter async for letter in chosen.letters(bus)]

    return gather


# -- replay and discard


def _act(
    what: Literal["replay", "discard"], words: tuple[str, ...], app_dir: str, *, factory: bool, **options: Any
) -> None:
    program, ids = without_app(words, app_dir, factory=factory, more=True)
    chosen = _chosen(options, ids)
    if not chosen.named and not chosen.everything:
        raise click.UsageError(f"Say which to {what}: ids, a filter such as --sub or --name, or --all.")
    dry, yes, rate = options["dry_run"], options["yes"], options["rate"]
    force = options.get("force", False)

    async def act(bus: Bus) -> int:
        letters = [(letter.subscription, letter.id) async for letter in chosen.letters(bus)]
        if dry or not letters:
            say(f"{len(letters):,} dead letters would be {_done(what)}" if dry else "No dead letter matches.")
            return 0
        confirm(f"{what.capitalize()} {len(letters):,} dead letters?", yes=yes)
        method = partial(bus.dead.replay, force=force) if what == "replay" else bus.dead.discard
        return await _in_batches(method, _done(what), sorted(letters, key=lambda pair: pair[0]), rate)

    done = with_bus(program, act)
    if not dry:
        click.echo(f"{done:,} dead letters {_done(what)}")


async def _in_batches(
    method: Callable[[str, list[UUID]], Awaitable[int]],
    done_to: str,
    letters: list[tuple[str, UUID]],
    rate: float | None,
) -> int:
    """In batches that a rate leaves room between."""
    size = _BATCH if rate is None else max(1, min(_BATCH, int(rate / 4)))
    done, began, tried = 0, time.monotonic(), 0
    with progress(len(letters), done_to) as advance:
        for subscription, group in groupby(letters, key=lambda pair: pair[0]):
            for batch in _batches([letter for _, letter in group], size):
                if rate is not None:
                    await asyncio.sleep(max(0.0, began + tried / rate - time.monotonic()))
                done += await method(subscription, batch)
                tried += len(batch)
                advance(len(batch))
    return done


def _batches(ids: list[UUID], size: int) -> Iterator[list[UUID]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _done(what: str) -> str:
    return "replayed" if what == "replay" else "discarded"
