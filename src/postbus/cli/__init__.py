"""The command line: arguments in, the same public calls that a user makes.  Loads a command only when it is run."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from types import MappingProxyType, TracebackType
from typing import NoReturn

import click

from .. import __version__
from ..errors import (
    CodecError,
    ConfigError,
    InvalidName,
    PostbusError,
    TransportBroken,
    TransportError,
    UnknownEvent,
    UnknownSubscription,
)
from ..shown import printable

__all__ = ["guarded", "main", "postbus", "run"]

# command -> (module, attribute, what it does)
_COMMANDS = MappingProxyType(
    {
        "worker": ("worker", "worker", "Run an app's subscribers."),
        "workers": ("workers", "workers", "List worker processes, and quiet, resume or stop one."),
        "relay": ("relay", "relay", "Carry an app's outbox to its transport."),
        "publish": ("publish", "publish", "Publish an event, or a file of them."),
        "status": ("status", "status", "Show how every subscription stands."),
        "events": ("events", "events", "List declared and stored events."),
        "schema": ("schema", "schema", "Export the schemas of events, and check changes to them."),
        "graph": ("graph", "graph", "Show who publishes each event and who reacts."),
        "trace": ("trace", "trace", "Say why an event runs or does not."),
        "dead": ("dead", "dead", "List, group, show, amend, replay, discard and export dead letters."),
        "retries": ("retries", "retries", "List, hasten and discard what waits for another attempt."),
        "subs": ("subs", "subs", "List, pause, resume, rename, retire and rewind subscriptions."),
        "dashboard": ("dashboard", "dashboard", "See and mend everything in a browser."),
        "db": ("db", "db", "Print, make or check an app's tables."),
        "setup": ("prepare", "setup", "Create tables and make this app's declarations current."),
        "doctor": ("checkup", "doctor", "Check an app and its transport."),
        "demo": ("show", "demo", "Watch a real stream of events flow."),
        "bench": ("bench", "bench", "Measure this machine and a transport."),
        "init": ("starter", "init", "Write a small app to start from."),
        "completion": ("about", "completion", "Print a shell's completion script."),
        "version": ("about", "version", "Print the version."),
    }
)
# What a group without a sub-command raises, in clicks from 8.2: its message is the help.
_HELP: type[click.ClickException] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())
_ALIASES = MappingProxyType({"run": "worker"})


class _Commands(click.Group):
    """Sub-commands by table, imported when one is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All of them, in the order of the table."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import one."""
        found = _COMMANDS.get(_ALIASES.get(cmd_name, cmd_name))
        if found is None:
            return None
        module, attribute, _ = found
        command: click.Command = getattr(importlib.import_module(f"postbus.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """So that `postbus run` reads the variables of `postbus worker`, too."""
        _, command, rest = super().resolve_command(ctx, args)
        return command.name if command is not None else None, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """List them without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, _, what) in _COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "POSTBUS", "max_content_width": 100},
)
@click.version_option(__version__, prog_name="postbus")
@click.option("--no-color", is_flag=True, help="No colours, as with NO_COLOR in the environment.")
def postbus(*, no_color: bool) -> None:
    """The event bus for Python.

    APP is where the bus is: module:attribute, such as shop:bus.  It may be left out where POSTBUS_APP, or app= in
    [tool.postbus] of pyproject.toml, says it.
    """
    if no_color:
        os.environ["NO_COLOR"] = "1"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 well, 1 failed, 2 wrong usage, 3 no connection, 4 a check failed, 5 forced."""
    sys.excepthook = _show_crash
    sys.exit(run(arguments))


def _show_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    importlib.import_module("postbus.logs").show_crash(kind, error, trace)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return guarded(lambda: postbus.main(arguments, prog_name="postbus", standalone_mode=False))


def guarded(work: Callable[[], object]) -> int:
    """Do it, and turn what it raises on purpose into a line on stderr and an exit code."""
    try:
        result = work()
    except click.ClickException as error:
        if isinstance(error, _HELP):
            click.echo(error.format_message(), err=True)
            return error.exit_code
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        _say_error(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except PostbusError as error:
        _say_error(importlib.import_module("postbus.failure").redacted(str(error)))
        return _exit_code(error)
    return result if isinstance(result, int) else 0


def _say_error(message: str) -> None:
    click.echo(f"Error: {printable(message, keep=chr(10))}", err=True)


def _exit_code(error: PostbusError) -> int:
    match error:
        case ConfigError() | InvalidName() | UnknownEvent() | UnknownSubscription() | CodecError():
            return 2
        case TransportError() if not isinstance(error, TransportBroken):
            return 3
        case _:
            return 1
