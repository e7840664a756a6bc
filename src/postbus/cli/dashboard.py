"""`postbus dashboard`: an app's bus in the browser."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import webbrowser
from collections.abc import Mapping
from contextlib import suppress

import click

from ..bus import Bus
from ..dashboard import Access, Account, app, local_only
from ..dashboard.access import is_loopback
from ..dashboard.serving import Serving
from ..errors import ConfigError, TransportError
from ..failure import redacted
from ..logs import Logs
from .given import takes_app, without_app
from .output import say

__all__ = ["dashboard"]


@click.command()
@takes_app()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8088, show_default=True, help="0 takes a free one.")
@click.option("--read-only", is_flag=True, help="Nobody may do anything, only look.")
@click.option("--allow-host", "hosts", multiple=True, help="A name it may be asked by, besides this machine's own.")
@click.option("--root-path", default="", help="Where a proxy has put it, such as /bus.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without a login.")
@click.option("--open", "browse", is_flag=True, help="Open it in a browser.")
def dashboard(
    words: tuple[str, ...], *, app_dir: str, factory: bool, host: str, port: int, read_only: bool,
    hosts: tuple[str, ...], root_path: str, insecure: bool, browse: bool,
) -> None:  # fmt: skip
    """See and mend everything in a browser.

    Whoever may log in is said by POSTBUS_DASHBOARD_USER and POSTBUS_DASHBOARD_PASSWORD, and for one who only looks by
    POSTBUS_DASHBOARD_READER_USER and POSTBUS_DASHBOARD_READER_PASSWORD.  Without a login it listens on this machine
    only.
    """
    program, _ = without_app(words, app_dir, factory=factory)
    accounts = accounts_of(os.environ)
    if not is_loopback(host) and not accounts and not insecure:
        raise ConfigError(
            f"--host {host} lets others in: set POSTBUS_DASHBOARD_USER and POSTBUS_DASHBOARD_PASSWORD, or pass "
            f"--insecure where something else keeps them out"
        )
    Logs(level="warning").configure(redacted)
    bus = program.load()
    if not bus.transport.traits.shared:
        say(f"{bus!r} lives in one process: mount the dashboard in the program itself, with postbus.dashboard.app(bus)")
    pages = app(
        bus,
        authorize=everybody if insecure else local_only,
        read_only=read_only,
        accounts=accounts,
        hosts=None if accounts and not hosts else frozenset({host, "localhost", socket.gethostname(), *hosts}),
        target=program.place,
        title=program.place,
    )
    asyncio.run(_serve(bus, Serving(pages, host=host, port=port, root_path=root_path), browse=browse))


async def _serve(bus: Bus, serving: Serving, *, browse: bool) -> None:
    async with bus.opened(declare=False):
        try:
            url = await serving.start()
        except OSError as error:
            raise TransportError(f"cannot listen: {error}") from error
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):  # where a loop takes no signals, Ctrl-C interrupts it
                asyncio.get_running_loop().add_signal_handler(number, serving.end)
        say(f"the dashboard is at {url}  (Ctrl-C ends it)")
        if browse:
            webbrowser.open(url)
        await serving.ended()


def everybody(_: object) -> Access:
    """Somebody else keeps strangers out."""
    return Access.FULL


def accounts_of(environ: Mapping[str, str]) -> tuple[Account, ...]:
    """Who may log in.

    Raises:
        ConfigError: when a name has no password, or one that can be guessed.
    """
    found = []
    for prefix, access in (("POSTBUS_DASHBOARD_", Access.FULL), ("POSTBUS_DASHBOARD_READER_", Access.READ_ONLY)):
        name, password = environ.get(f"{prefix}USER"), environ.get(f"{prefix}PASSWORD")
        if name is None and password is None:
            continue
        if not name or not password:
            raise ConfigError(f"{prefix}USER and {prefix}PASSWORD: expected both, or neither")
        found.append(Account(name=name, password=password, access=access))
    return tuple(found)
