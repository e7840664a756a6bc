"""Metrics of worker processes in one place: they report their figures to the supervisor, which serves them.

What a process had counted when it ended stays in the sums, so that a restart looks like no loss.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from ..figures import FAMILIES, Figures, merged, unpacked

__all__ = ["MetricsBoard", "without_figures"]

log = logging.getLogger("postbus.metrics")


class MetricsBoard:
    """The newest figures of every process.  Written by the supervisor's thread, read by the server's."""

    def __init__(self) -> None:
        self._live: dict[int, Figures] = {}
        self._ended: Figures = {}
        self._server: Any = None

    def show(self, workers: Sequence[dict[str, Any]]) -> None:
        """Take the newest state; see `supervisor.Board`."""
        live = {worker["pid"]: unpacked(worker["figures"]) for worker in workers if worker.get("figures")}
        for pid in self._live.keys() - live.keys():
            self._ended = merged([self._ended, _sums(self._live[pid])])
        self._live = live

    def figures(self) -> Figures:
        """Of all processes together."""
        return merged([self._ended, *self._live.values()])

    def serve(self, host: str, port: int) -> int:
        """Answer /metrics from a thread; return the port.

        Raises:
            ConfigError: when prometheus_client is not installed.
            OSError: when the port cannot be had.
        """
        try:
            exposition = importlib.import_module("prometheus_client")
            prometheus = importlib.import_module("postbus.integrations.prometheus")
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("postbus"):
                raise
            raise ConfigError(
                f"--metrics-port needs {error.name}, which is not installed: pip install 'postbus[prometheus]'"
            ) from error
        registry = exposition.CollectorRegistry()
        registry.register(prometheus.FiguresCollector(self.figures))
        self._server, _ = exposition.start_http_server(port, addr=host, registry=registry)
        found: int = self._server.server_port
        log.info("metrics at http://%s:%d/metrics", host, found)
        return found

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def without_figures(workers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The state of processes, for who shows only whether they live."""
    return [{name: value for name, value in worker.items() if name != "figures"} for worker in workers]


def _sums(figures: Figures) -> Figures:
    """What stays true when the process is gone."""
    return {name: values for name, values in figures.items() if FAMILIES[name].kind != "gauge"}
