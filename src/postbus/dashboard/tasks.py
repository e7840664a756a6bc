"""Long actions with their progress: started by one request, looked at by others, listed when they are done."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ..errors import PostbusError
from ..observe import log
from .pulse import Pulse

__all__ = ["State", "Task", "Tasks"]

_KEPT = 50
_AT_ONCE = 8

State = Literal["running", "done", "failed", "stopped"]


@dataclass(slots=True, kw_only=True)
class Task:
    """One action on many things.

    Attributes:
        id: to ask for it.
        title: what it does, such as 'Replay 1,234 dead letters of receipts'.
        who: who started it.
        total: how many things, as far as known.
        done: how many so far.
        state: how it stands.
        message: how it ended.
    """

    id: str
    title: str
    who: str
    total: int
    started_at: datetime
    done: int = 0
    state: State = "running"
    message: str = ""


class Tasks:
    """What runs, and what ran last."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse = pulse
        self._tasks: OrderedDict[str, tuple[Task, asyncio.Task[None]]] = OrderedDict()
        self._numbers = itertools.count(1)

    def start(self, title: str, who: str, total: int, work: Callable[[Task], Awaitable[str]]) -> Task:
        """Begin; `work` counts `done` up, and returns how it ended.

        Raises:
            PermissionError: when too many run.
        """
        if len(self.running()) >= _AT_ONCE:
            raise PermissionError(f"{_AT_ONCE} actions run already: wait for one of them")
        task = Task(id=str(next(self._numbers)), title=title, who=who, total=total, started_at=datetime.now(UTC))
        self._tasks[task.id] = (task, asyncio.create_task(self._run(task, work), name=f"postbus-dashboard-{task.id}"))
        while len(self._tasks) > _KEPT:
            self._tasks.popitem(last=False)
        return task

    async def settled(self, task: Task, within: float) -> Task:
        """Wait a moment for it: most are done before anybody could look."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.shield(self._tasks[task.id][1])
        return task

    def get(self, id_: str) -> Task | None:
        """The task of this id, unless it is long done."""
        found = self._tasks.get(id_)
        return None if found is None else found[0]

    def running(self) -> list[Task]:
        """Those that are not done, the newest first."""
        return [task for task in self.recent() if task.state == "running"]

    def recent(self) -> list[Task]:
        """All that are remembered, the newest first."""
        return [task for task, _ in reversed(self._tasks.values())]

    def stop(self, id_: str) -> None:
        """End it where it is: what was done stays done."""
        if id_ in self._tasks:
            self._tasks[id_][1].cancel()

    async def _run(self, task: Task, work: Callable[[Task], Awaitable[str]]) -> None:
        with self._pulse.held():
            try:
                task.message = await work(task)
                task.state = "done"
            except asyncio.CancelledError:
                task.state, task.message = "stopped", f"stopped after {task.done:,}"
            except PostbusError as error:
                task.state, task.message = "failed", str(error)
                log.warning("dashboard: %s failed after %d: %s", task.title, task.done, error)
            finally:
                self._pulse.stir()
