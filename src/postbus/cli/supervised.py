"""Runs worker processes as ordered, under a supervisor; and the options that all commands doing so share."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from ..health import HealthBoard
from ..logs import FORMATS, LEVELS
from ..supervisor import Board, Command, Supervisor
from .given import Span
from .metrics import MetricsBoard, without_figures
from .orders import Orders
from .reload import watch

__all__ = ["OURS", "CannotStart", "process_options", "setting", "supervise"]

F = TypeVar("F", bound=Callable[..., Any])

# Options that concern the supervisor; the others are for the processes.
OURS = (
    "workers",
    "health_file",
    "health_port",
    "health_host",
    "metrics_port",
    "metrics_host",
    "reload",
    "reload_dir",
    "dry_run",
)


class CannotStart(click.ClickException):
    """Something outside keeps the processes from starting."""

    exit_code = 3


def setting(name: str, *flags: str, **options: Any) -> Callable[[F], F]:
    """An option that overrides the bus's own setting, also as POSTBUS_<SETTING>."""
    return click.option(
        *flags, name, envvar=[f"POSTBUS_WORKER_{name.upper()}", f"POSTBUS_{name.upper()}"], show_envvar=True, **options
    )


def process_options(fn: F) -> F:
    """How a process runs, whatever it does: its name, its connection, its loop, its log, its health."""
    given = (
        click.option("-n", "--name", help="A name for people, shown with the host and process."),
        click.option(
            "--connect-timeout", type=Span(), default=30.0, show_default=True, help="How long to wait to connect."
        ),
        click.option("--loop", type=click.Choice(["auto", "asyncio", "uvloop"]), default="auto", show_default=True),
        click.option(
            "-l", "--log-level", type=click.Choice(LEVELS, case_sensitive=False), default="info", show_default=True
        ),
        click.option("--log-format", type=click.Choice(FORMATS), default="text", show_default=True),
        click.option(
            "--log-config", type=click.Path(exists=True, dir_okay=False), help="JSON or INI for logging.config."
        ),
        click.option("--health-file", type=click.Path(dir_okay=False), help="Written while the processes live."),
        click.option(
            "--health-port", type=click.IntRange(0, 65535), help="Answers /livez and /readyz; 0 picks a free port."
        ),
        click.option("--health-host", default="127.0.0.1", show_default=True, help="Where the health port listens."),
        click.option(
            "--metrics-port",
            type=click.IntRange(0, 65535),
            help="Answers /metrics for Prometheus, with the figures of all processes; 0 picks a free port.",
        ),
        click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where the metrics port listens."),
    )
    for option in reversed(given):
        fn = option(fn)
    return fn


def supervise(orders: Orders, own: dict[str, Any]) -> int:
    """Run processes as ordered until they are done or told to stop; return the exit code.

    Args:
        orders: for the processes.
        own: the options named in `OURS`, as far as the command has them.

    Raises:
        CannotStart: when something outside is in the way.
    """
    if not hasattr(signal, "SIGHUP"):
        raise CannotStart("this needs POSIX signals: run `await bus.run_worker()` in a program of your own")
    workers = own.get("workers", 1)
    with _boards(workers, own) as board:
        supervisor = Supervisor(
            _command(dataclasses.replace(orders, measure=own["metrics_port"] is not None)),
            processes=workers,
            until_done=orders.burst or orders.max_messages is not None,
            patient=own.get("reload", False),
            board=board,
        )
        if own.get("reload"):
            watch(own["reload_dir"] or [orders.app_dir], supervisor.roll)
        return supervisor.run()


class _Boards:
    """What is shown the state of the processes."""

    def __init__(self, health: HealthBoard | None, metrics: MetricsBoard | None) -> None:
        self._health = health
        self._metrics = metrics

    def show(self, workers: Sequence[dict[str, Any]]) -> None:
        if self._metrics is not None:
            self._metrics.show(workers)
        if self._health is not None:
            self._health.show(without_figures(workers))


@contextmanager
def _boards(workers: int, own: dict[str, Any]) -> Iterator[Board]:
    file, port, metrics_port = own["health_file"], own["health_port"], own["metrics_port"]
    health = None if file is None and port is None else HealthBoard(expected=workers, file=file)
    metrics = None if metrics_port is None else MetricsBoard()
    try:
        if health is not None and port is not None:
            _serve(health, "--health-port", own["health_host"], port)
        if metrics is not None:
            _serve(metrics, "--metrics-port", own["metrics_host"], metrics_port)
        yield _Boards(health, metrics)
    finally:
        for board in (health, metrics):
            if board is not None:
                board.close()


def _serve(board: HealthBoard | MetricsBoard, option: str, host: str, port: int) -> None:
    try:
        board.serve(host, port)
    except OSError as error:
        raise CannotStart(f"{option} {port} on {host} cannot be had: {error.strerror or error}") from error


def _command(orders: Orders) -> Command:
    def command(descriptor: int, *, again: bool) -> list[str]:
        # One that had been ready waits for its transport as long as it takes: an outage ends no worker.
        patience = float("inf") if again else orders.connect_timeout
        told = dataclasses.asdict(dataclasses.replace(orders, connect_timeout=patience))
        # -P: a file of the program's that is named like a module of ours must not be taken for it.
        return [sys.executable, "-P", "-m", "postbus.cli.process", str(descriptor), json.dumps(told)]

    return command
