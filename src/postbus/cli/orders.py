"""What the command line tells a worker process.  Small, so that the supervisor stays small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..logs import Logs
from ..program import Program

__all__ = ["Orders"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """Options of `postbus worker` and `postbus relay`; None leaves a setting to the bus.

    `relay` says where the bus's outbox is relayed: beside the worker, elsewhere, or here and nothing else.  With
    `measure` a process reports its figures to the supervisor.
    """

    place: str
    app_dir: str = "."
    factory: bool = False
    only: Sequence[str] = ()
    exclude: Sequence[str] = ()
    concurrency: int | None = None
    lease: float | None = None
    grace: float | None = None
    name: str | None = None
    journal: bool | None = None
    burst: bool = False
    max_messages: int | None = None
    relay: Literal["beside", "elsewhere", "alone"] = "beside"
    connect_timeout: float = 30.0
    loop: str = "auto"
    measure: bool = False
    log_level: str = "info"
    log_format: str = "text"
    log_config: str | None = None

    @property
    def program(self) -> Program:
        """Where the bus is."""
        return Program(self.place, self.app_dir, self.factory)

    @property
    def logs(self) -> Logs:
        """Where the log goes."""
        return Logs(level=self.log_level, form=self.log_format, config=self.log_config)
