"""Flask: the bus of an application, `flask postbus ...`, and the application's context around subscribers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import click
from flask import Flask, current_app
from werkzeug.local import LocalProxy

from ..bus import Bus
from ..cli import postbus
from ..errors import ConfigError
from ..middleware import AroundThread, around_thread

__all__ = ["Postbus", "bus", "in_app_context"]

_NAME = "postbus"
_PLACE = "POSTBUS_APP"


class Postbus:
    """The extension: `Postbus(bus, app)`, or `Postbus(bus)` and later `init_app(app)`.

    The bus opens with the first publish of each process, so servers may fork before or after.

    Args:
        bus: the application's bus.
        app: the application.
    """

    def __init__(self, bus: Bus, app: Flask | None = None) -> None:
        self.bus = bus
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give `app` the bus and the command `flask postbus`.

        Raises:
            ConfigError: when it has another bus.
        """
        found = app.extensions.setdefault(_NAME, self.bus)
        if found is not self.bus:
            raise ConfigError(f"the application {app.name!r} has a bus already: one Postbus(bus, app) is enough")
        app.before_request(self.bus.ensure_open)  # before a view takes a lock that opening may need
        app.cli.add_command(_commands(app, self.bus))


def _commands(app: Flask, bus: Bus) -> click.Command:
    """Our own commands, told where this bus is."""
    group = click.Group(_NAME, help="The application's event bus: workers, dead letters, and so on.")

    @group.command("where", help="Say where the commands find the bus.")
    def where() -> None:
        click.echo(_place(app, bus))

    class Commands(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return [*postbus.list_commands(ctx), "where"]

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
            os.environ.setdefault(_PLACE, _place(app, bus))  # for the processes that a worker starts, too
            return group.get_command(ctx, cmd_name) or postbus.get_command(ctx, cmd_name)

    return Commands(_NAME, help=group.help, context_settings=postbus.context_settings)


def _place(app: Flask, bus: Bus) -> str:
    """`module:attribute` of the bus, as worker processes import it: said in the config, or seen in a module."""
    said = app.config.get(_PLACE)
    if said is not None:
        return str(said)
    package = app.import_name.partition(".")[0]
    for name, module in sorted(sys.modules.items()):
        if name == package or name.startswith(f"{package}."):
            for attribute, value in vars(module).items():
                if value is bus:
                    return f"{name}:{attribute}"
    raise ConfigError(
        f'no module of {package!r} has the bus as an attribute: say app.config["POSTBUS_APP"] = "module:attribute"'
    )


def in_app_context(application: Callable[[], Flask]) -> AroundThread:
    """Make middleware that pushes the application's context around each `def` subscriber, as around a request.

    Extensions that clean up with the context, such as Flask-SQLAlchemy its session, do so after each delivery.

    Args:
        application: returns the application, which may be made later than the bus.
    """

    @around_thread
    def pushed() -> Iterator[None]:
        with application().app_context():
            yield

    return pushed


# The bus of the application that is running.
bus: Bus = LocalProxy(lambda: current_app.extensions[_NAME])  # type: ignore[assignment]
