"""`postbus schema`: what events look like, for others; and whether a change would break them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import click

from ..compatibility import problems, read_file
from ..errors import ConfigError
from ..schema import asyncapi, described, json_schemas
from .given import as_json, takes_app, without_app
from .output import print_json, say

__all__ = ["schema"]

_BROKEN = 4


@click.group()
def schema() -> None:
    """Export the schemas of events, and check changes to them."""


@schema.command()
@takes_app()
@click.option("--format", "form", type=click.Choice(["asyncapi", "json-schema"]), default="asyncapi", show_default=True)
@click.option("--title", help="Of the application; default where APP is.")
@click.option("--version", default="1.0.0", show_default=True, help="Of the application.")
@click.option("-o", "--output", type=click.File("w", "utf-8", lazy=True), default="-", help="Where to; default stdout.")
def export(
    words: tuple[str, ...], *, app_dir: str, factory: bool, form: str, title: str | None, version: str, output: TextIO
) -> None:
    """Write what APP declares as AsyncAPI 3.1, or as JSON Schema by event.  Needs no transport."""
    program, _ = without_app(words, app_dir, factory=factory)
    bus = program.load()
    document: dict[str, Any] = (
        json_schemas(bus) if form == "json-schema" else asyncapi(bus, title=title or program.place, version=version)
    )
    click.echo(json.dumps(document, indent=2, ensure_ascii=False), file=output)


@schema.command()
@takes_app()
@click.option("--against", required=True, type=click.Path(exists=True, dir_okay=False), help="An earlier export.")
@as_json
def check(words: tuple[str, ...], *, app_dir: str, factory: bool, against: str, as_json: bool) -> int:
    """Compare APP with an earlier export, and fail with exit code 4 when a change breaks somebody.

    Both directions count: new programs must read what is stored, and programs that run now must read what new ones
    publish.  An event whose version was raised may change: its upcasters answer for it.
    """
    program, _ = without_app(words, app_dir, factory=factory)
    try:
        earlier = read_file(json.loads(Path(against).read_text("utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{against} cannot be read: {error}") from error
    found = problems(earlier, described(program.load()))
    for problem in found:
        if as_json:
            print_json({"event": problem.event, "field": problem.field, "message": problem.message})
        else:
            click.echo(str(problem))
    if not as_json:
        say(f"{len(found)} breaking changes" if found else "nothing breaks")
    return _BROKEN if found else 0
