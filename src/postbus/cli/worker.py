"""`postbus worker`: runs an app's subscribers, in processes under a supervisor."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..health import HealthBoard
from ..logs import FORMATS, LEVELS
from ..supervisor import Command, Supervisor
from .given import Span, takes_app, without_app
from .orders import Orders
from .reload import watch

__all__ = ["worker"]

# Options that concern the supervisor; the others are for the processes.
_OURS = ("workers", "health_file", "health_port", "health_host", "reload", "reload_dir", "dry_run")


def _setting(name: str, *flags: str, **options: Any) -> Callable[[Any], Any]:
    """An option that overrides the bus's own setting, also as POSTBUS_<SETTING>."""
    return click.option(
        *flags, name, envvar=[f"POSTBUS_WORKER_{name.upper()}", f"POSTBUS_{name.upper()}"], show_envvar=True, **options
    )


@click.command()
@takes_app()
@click.option("-w", "--workers", type=click.IntRange(1, 512), default=1, show_default=True, help="Worker processes.")
@_setting("concurrency", "-c", "--concurrency", type=click.IntRange(1), help="Deliveries at once in each process.")
@click.option("-s", "--subscription", "only", multiple=True, metavar="NAME", help="Run only this one; repeatable.")
@click.option("-x", "--exclude", multiple=True, metavar="NAME", help="Do not run this one; repeatable.")
@_setting("lease", "--lease", type=Span(), help="After so long the work of a vanished worker is taken over.")
@_setting("grace", "--grace", "--shutdown-timeout", type=Span(), help="What runs at shutdown has so long to end.")
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
@click.option("--max-messages", type=click.IntRange(1), help="End after so many deliveries, in each process.")
@click.option("-n", "--name", help="A name for people, shown with the worker's host and process.")
@click.option("--connect-timeout", type=Span(), default=30.0, show_default=True, help="How long to wait to connect.")
@click.option("--loop", type=click.Choice(["auto", "asyncio", "uvloop"]), default="auto", show_default=True)
@click.option("-l", "--log-level", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--log-config", type=click.Path(exists=True, dir_okay=False), help="JSON or INI for logging.config.")
@click.option("--health-file", type=click.Path(dir_okay=False), help="Written while the workers live.")
@click.option("--health-port", type=click.IntRange(0, 65535), help="Answers /livez and /readyz; 0 picks a free port.")
@click.option("--health-host", default="127.0.0.1", show_default=True, help="Where the health port listens.")
@click.option("-r", "--reload", is_flag=True, help="Replace the processes when a Python file changes.")
@click.option("--reload-dir", multiple=True, type=click.Path(exists=True, file_okay=False), help="Watch here instead.")
@click.option("--dry-run", is_flag=True, help="Print what would run, and end.")
def worker(words: tuple[str, ...], *, app_dir: str, factory: bool, **options: Any) -> int:
    """Run the subscribers of APP until told to stop.

    The first SIGTERM or SIGINT stops claiming, hands back what has not started and waits for what runs; the second ends
    at once.  SIGHUP replaces the processes one by one.  SIGUSR1 writes what they do to the log.
    """
    program, _ = without_app(words, app_dir, factory=factory)
    if not hasattr(signal, "SIGHUP"):
        raise CannotStart("postbus worker needs POSIX signals: run `await bus.run_worker()` in a program of your own")
    own = {name: options.pop(name) for name in _OURS}
    orders = Orders(place=program.place, app_dir=program.app_dir, factory=program.factory, **options)
    orders.logs.configure()
    if own["dry_run"]:
        told = json.dumps(dataclasses.asdict(orders))
        return subprocess.run([sys.executable, "-P", "-m", "postbus.cli.plan", told], check=False).returncode
    with _board(own["workers"], own["health_file"], own["health_host"], own["health_port"]) as board:
        supervisor = Supervisor(
            _command(orders),
            processes=own["workers"],
            until_done=orders.burst or orders.max_messages is not None,
            patient=own["reload"],
            board=board,
        )
        if own["reload"]:
            watch(own["reload_dir"] or [app_dir], supervisor.roll)
        return supervisor.run()


@contextmanager
def _board(workers: int, file: str | None, host: str, port: int | None) -> Iterator[HealthBoard | None]:
    if file is None and port is None:
        yield None
        return
    board = HealthBoard(expected=workers, file=file)
    try:
        if port is not None:
            _serve(board, host, port)
        yield board
    finally:
        board.close()


def _serve(board: HealthBoard, host: str, port: int) -> None:
    try:
        board.serve(host, port)
    except OSError as error:
        raise CannotStart(f"--health-port {port} on {host} cannot be had: {error.strerror or error}") from error


class CannotStart(click.ClickException):
    """Something outside keeps the worker from starting."""

    exit_code = 3


def _command(orders: Orders) -> Command:
    def command(descriptor: int, *, again: bool) -> list[str]:
        # One that had been ready waits for its transport as long as it takes: an outage ends no worker.
        patience = float("inf") if again else orders.connect_timeout
        told = dataclasses.asdict(dataclasses.replace(orders, connect_timeout=patience))
        # -P: a file of the program's that is named like a module of ours must not be taken for it.
        return [sys.executable, "-P", "-m", "postbus.cli.process", str(descriptor), json.dumps(told)]

    return command
