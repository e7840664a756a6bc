"""Command lines shown in a page name commands and options that `postbus` has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from postbus.cli import postbus

from .pages import fences, line_of

__all__ = ["check_commands"]

_SHELL = ("sh", "shell", "bash", "console", "ini", "yaml", "dockerfile")
_INVOCATION = re.compile(r"(?:^|[\s\"/=(|])postbus[ ](?P<rest>[^\n|;&)#>]*)")


def check_commands(text: str) -> Iterator[str]:
    """What is wrong with the command lines of a page."""
    for fence in fences(text):
        if fence.language in _SHELL:
            for found in _INVOCATION.finditer(fence.code.replace("\\\n", " ")):
                line = line_of(text, fence.start)
                yield from (f"{line}: `postbus {found['rest'].strip()}`: {why}" for why in _wrong(found["rest"]))


def _wrong(rest: str) -> Iterator[str]:
    words = [word.strip("\",[]'") for word in shlex.split(rest.replace('"', " ").replace("'", " "))]
    command: click.Command = postbus
    context = click.Context(postbus)
    for word in words:
        if word.startswith("-"):
            name = word.partition("=")[0]
            if name not in ("-h", "--help", *_options(command)):
                yield f"{command.name} has no option {name}"
        elif isinstance(command, click.Group):
            inner = command.get_command(context, word)
            if inner is None:
                yield f"{command.name} has no command {word!r}"
                return
            command = inner


def _options(command: click.Command) -> list[str]:
    return [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
