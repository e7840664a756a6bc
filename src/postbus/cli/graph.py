"""`postbus graph`: who publishes each event, and who reacts to it."""

from __future__ import annotations

import click

from ..graph import graph_of
from ..shown import printable
from .given import as_json, takes_app, without_app
from .output import print_json

__all__ = ["graph"]


@click.command()
@takes_app()
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart, for Markdown.")
@as_json
def graph(words: tuple[str, ...], *, app_dir: str, factory: bool, mermaid: bool, as_json: bool) -> None:
    """Show who publishes each event of APP, and who reacts to it.  Needs no transport.

    `<-` are functions whose source publishes it, `=>` handlers in-process, `->` subscriptions.
    """
    program, _ = without_app(words, app_dir, factory=factory)
    found = graph_of(program.load())
    if as_json:
        for event in found.as_dict():
            print_json(event)
    else:
        click.echo(printable(found.mermaid() if mermaid else found.text(), keep="\n"))
