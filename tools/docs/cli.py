"""The commands of `postbus`, as click knows them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from postbus.cli import postbus

__all__ = ["cli"]

_WIDTH = 100


def cli() -> str:
    """Each command with its help."""
    return "\n\n".join(f"### `{path}`\n\n```text\n{text}\n```" for path, text in _commands(postbus, "postbus"))


def _commands(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    # A width of our own, so that the text does not depend on the terminal it is made in.
    context = command.context_class(
        command,
        info_name=path.rpartition(" ")[2],
        parent=parent,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=["-h", "--help"],
        auto_envvar_prefix="POSTBUS" if parent is None else None,
    )
    yield path, _help(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _commands(inner, f"{path} {name}", context)


def _help(command: click.Command, context: click.Context) -> str:
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
