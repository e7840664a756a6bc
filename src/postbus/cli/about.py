"""`postbus version` and `postbus completion`: about the command itself."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import click
from click.shell_completion import get_completion_class

from .. import __version__
from .given import as_json
from .output import print_json

__all__ = ["completion", "version"]

_COMPANIONS = ("msgspec", "click", "rich", "watchfiles", "uvloop")


@click.command()
@as_json
def version(*, as_json: bool) -> None:
    """Print the version; with --json also those of what it runs on."""
    if not as_json:
        click.echo(__version__)
        return
    found = {name: _version(name) for name in _COMPANIONS}
    print_json({"postbus": __version__, "python": platform.python_version(), "platform": platform.platform(), **found})


def _version(package: str) -> str | None:
    try:
        return version_of(package)
    except PackageNotFoundError:
        return None


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print a completion script.

    In bash: eval "$(postbus completion bash)".  In zsh the same with zsh; in fish: postbus completion fish | source.
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"click knows no completion for {shell}.")
    click.echo(made(ctx.find_root().command, {}, "postbus", "_POSTBUS_COMPLETE").source())
