"""The commands of `postbus`, from what click knows of them; not in its words, which change with its versions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from postbus.cli import postbus

__all__ = ["cli"]


def cli() -> str:
    """Each command: how it is called, what it does, its options."""
    return "\n\n".join(_commands(postbus, "postbus"))


def _commands(command: click.Command, path: str) -> Iterator[str]:
    yield "\n\n".join(
        part for part in (f"### `{path}`", _usage(command, path), _help(command), _options(command)) if part
    )
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _commands(inner, f"{path} {name}")


def _usage(command: click.Command, path: str) -> str:
    words = ["COMMAND ..."] if isinstance(command, click.Group) else []
    words += [p.metavar or _value(p) for p in command.params if isinstance(p, click.Argument)]
    return f"```text\n{' '.join([path, '[OPTIONS]', *words])}\n```"


def _help(command: click.Command) -> str:
    """What it does, a paragraph a line."""
    text = inspect.cleandoc(command.help or "").partition("\f")[0].replace("|", "\\|")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in re.split(r"\n{2,}", text))


def _options(command: click.Command) -> str:
    rows = [_row(p) for p in command.params if isinstance(p, click.Option) and not p.hidden]
    return "\n".join(["| option | default | meaning |", "| --- | --- | --- |", *rows]) if rows else ""


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" `{option.metavar or _value(option)}`"
    default = f"`{option.default}`" if option.show_default and not option.is_flag else ""
    variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
    meaning = " ".join([option.help or "", *(f"Also `{name}`." for name in variables if name.count("_") == 1)]).strip()
    cells = (names + value, default, meaning)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(parameter: click.Parameter) -> str:
    match parameter.type:
        case click.Choice() as choice:
            return "|".join(map(str, choice.choices))
        case click.types.IntParamType():
            return "N"
        case click.types.FloatParamType():
            return "X"
        case click.Path() as path if not path.file_okay:
            return "FOLDER"
        case click.Path() | click.File():
            return "FILE"
        case other:
            return other.name.upper()
