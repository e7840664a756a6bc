"""What commands are given: which app, how to print.  Reads arguments, environment and pyproject.toml; loads nothing."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import ConfigError
from ..program import Program, is_place

__all__ = ["Rate", "Span", "as_json", "takes_app", "without_app"]

if TYPE_CHECKING:
    _Number = click.ParamType[float]
else:  # it is no generic class in older clicks
    _Number = click.ParamType

F = TypeVar("F", bound=Callable[..., Any])


def takes_app(metavar: str = "[APP]", *, required: bool = False) -> Callable[[F], F]:
    """Give a command the positional arguments of `metavar`, and how APP is to be imported.

    APP may be left out, so the command takes all of them as `words` and parts them with `without_app`.
    """

    def decorate(fn: F) -> F:
        fn = click.argument("words", nargs=-1, metavar=metavar, required=required)(fn)
        fn = click.option("--app-dir", default=".", show_default=True, help="The directory that APP is imported from.")(
            fn
        )
        return click.option("--factory", is_flag=True, help="APP is a function that returns the bus.")(fn)

    return decorate


def without_app(
    words: Sequence[str], app_dir: str, *, factory: bool, names: int = 0, more: bool = False
) -> tuple[Program, list[str]]:
    """Part APP from the other words.

    Args:
        words: all positional arguments.
        app_dir: where the app is imported from.
        factory: whether it is a function that returns the bus.
        names: how many words must follow APP.
        more: further words may follow those.

    Raises:
        click.UsageError: when there are too few or too many words.
        ConfigError: when no app is named anywhere.
    """
    rest = list(words)
    exact = len(rest) == names + 1 and not more
    place = rest.pop(0) if rest and (exact or (len(rest) > names and is_place(rest[0]))) else None
    if place is None:
        place = os.environ.get("POSTBUS_APP") or _from_pyproject()
    if place is None and rest and is_place(rest[0]):
        place = rest.pop(0)
    if len(rest) < names:
        raise click.UsageError("Missing argument.")
    if len(rest) > names and not more:
        raise click.UsageError(f"Got unexpected extra argument {rest[names]!r}.")
    if place is None:
        raise ConfigError(
            "no app is named: pass it as module:attribute, such as shop:bus, set POSTBUS_APP, or write app = "
            '"shop:bus" under [tool.postbus] in pyproject.toml'
        )
    return Program(place, app_dir, factory), rest


def _from_pyproject() -> str | None:
    path = Path("pyproject.toml")
    if not path.is_file():
        return None
    try:
        settings = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("postbus", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"pyproject.toml cannot be read: {error}") from error
    place = settings.get("app")
    if place is not None and not isinstance(place, str):
        raise ConfigError(f'pyproject.toml has app = {place!r} in [tool.postbus]: expected text such as "shop:bus"')
    return place


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class Span(_Number):
    """Seconds as a number, or with a unit: 500ms, 2s, 5m, 1h, 7d."""

    name = "seconds"
    _units = (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        text = value.strip().lower()
        number, factor = text, 1.0
        for unit, seconds in self._units:
            if text.endswith(unit):
                number, factor = text[: -len(unit)], seconds
                break
        try:
            span = float(number) * factor
        except ValueError:
            self.fail(f"{value!r} is not a time span: expected seconds, or such as 500ms, 2s, 5m, 1h, 7d.", param, ctx)
        if not 0 <= span < float("inf"):
            self.fail(f"{value!r} is not a time span: expected at least 0.", param, ctx)
        return span


class Rate(_Number):
    """So many a second: a number, or such as 100/s."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return how many a second."""
        text = str(value).strip().removesuffix("/s")
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate < float("inf"):
            self.fail(f"{value!r} is no rate: expected so many a second, such as 100/s.", param, ctx)
        return rate
