"""How results are printed: tables for people, JSON for programs; nothing in them steers the terminal.

With rich, and a terminal to show it on, tables have colours; else they are plain and aligned.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ..errors import ConfigError
from ..shown import one_line, printable

__all__ = ["Table", "age", "colour", "confirm", "document", "moment", "print_json", "progress", "say"]


@dataclass(slots=True)
class Table:
    """Rows under titles; a title that begins with '>' is of a column of numbers, and no cell is longer than `wide`."""

    titles: Sequence[str]
    wide: int = 48
    rows: list[Sequence[str]] = field(default_factory=list)
    alarms: set[tuple[int, int]] = field(default_factory=set)

    def add(self, *cells: object, alarm: Sequence[int] = ()) -> None:
        """Add a row; `alarm` are the places of the cells to be noticed."""
        self.alarms |= {(len(self.rows), place) for place in alarm}
        self.rows.append([text(cell, self.wide) for cell in cells])

    def render(self) -> str:
        """The whole table as text."""
        rich = _rich()
        return self._plain() if rich is None else self._rich(rich)

    def show(self) -> None:
        """Print it."""
        click.echo(self.render(), color=colour())

    def _plain(self) -> str:
        numeric = [title.startswith(">") for title in self.titles]
        lines = [[title.removeprefix(">") for title in self.titles], *self.rows]
        widths = [max(len(line[place]) for line in lines) for place in range(len(self.titles))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, numeric, strict=True)
            ).rstrip()
            for line in lines
        )

    def _rich(self, rich: _Rich) -> str:
        table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold underline")
        for title in self.titles:
            numeric = title.startswith(">")
            table.add_column(
                title.removeprefix(">"), justify="right" if numeric else "left", no_wrap=numeric, overflow="fold"
            )
        for number, row in enumerate(self.rows):
            styles = ["bold red" if (number, place) in self.alarms else "" for place in range(len(row))]
            table.add_row(*(rich.text.Text(cell, style) for cell, style in zip(row, styles, strict=True)))
        console = rich.console.Console(force_terminal=True, highlight=False)
        with console.capture() as captured:
            console.print(table)
        return str(captured.get()).rstrip("\n")


@dataclass(frozen=True, slots=True)
class _Rich:
    console: Any
    table: Any
    text: Any


_RICH = ("console", "table", "text")


def _rich() -> _Rich | None:
    if not colour():
        return None
    try:
        console, table, text = (importlib.import_module(f"rich.{room}") for room in _RICH)
    except ModuleNotFoundError:
        return None
    return _Rich(console, table, text)


def colour() -> bool:
    """Whether stdout takes colours: https://no-color.org and https://force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()


def text(value: object, wide: int) -> str:
    """One cell: one printable line."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case datetime():
            return moment(value)
        case _:
            return one_line(str(value), wide)


def moment(at: datetime | None) -> str:
    """A time, to the second, in UTC."""
    return "-" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def age(seconds: float | None) -> str:
    """A span in its two largest units."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    span = timedelta(seconds=int(seconds))
    hours, rest = divmod(span.seconds, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(span.days, "d"), (hours, "h"), (minutes, "m"), (left, "s")]
    first = next(place for place, (count, _) in enumerate(parts) if count)
    return "".join(f"{count}{unit}" for count, unit in parts[first : first + 2] if count)


def document(record: Mapping[str, object]) -> None:
    """Print a record, one field a line; what has several lines is indented below its name.  Bytes are left out."""
    fields = {name: value for name, value in record.items() if name != "body_base64"}
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        head, *more = printable(_field(value), keep="\n").splitlines() or ["-"]
        if more:
            click.echo(f"{name}:")
            click.echo("\n".join(f"    {line}" for line in (head, *more)))
        else:
            click.echo(f"{(name + ':').ljust(width + 1)} {head}")


def _field(value: object) -> str:
    match value:
        case None | {} | []:
            return "-"
        case dict() | list():
            return json.dumps(value, indent=2, ensure_ascii=False, default=_plain)
        case _:
            return str(value)


def print_json(value: object) -> None:
    """Print one JSON value on one line, in ASCII."""
    click.echo(json.dumps(value, default=_plain))


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case tuple() | set() | frozenset():
            return list(value)
        case bytes():
            return value.hex()
        case _:
            return str(value)


def say(message: str) -> None:
    """Tell the person something that is not the result."""
    click.echo(printable(message), err=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone.

    Raises:
        ConfigError: when there is nobody to ask.
        click.Abort: when the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{printable(question)} There is no terminal to ask on: pass --yes, or --dry-run to see.")
    click.confirm(printable(question), abort=True, err=True)


@contextmanager
def progress(total: int | None, label: str) -> Iterator[Callable[[int], None]]:
    """Show on stderr how far it is, if that is a terminal; what is given is called with each step."""
    with click.progressbar(length=total, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:  # type: ignore[var-annotated]
        yield bar.update
