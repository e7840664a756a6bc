"""What a worker process does at this moment, as text for its log: SIGUSR1 asks for it."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any

from ..bus import Bus
from ..worker import Worker

__all__ = ["activity"]

# The innermost frames say where it stands; those around them are the same everywhere.
_FRAMES = 5


def activity(loop: asyncio.AbstractEventLoop, worker: Worker | None, bus: Bus | None) -> str:
    """Describe the worker, its tasks and the process's threads.  From any thread, also while the loop is blocked."""
    lines: list[str] = []
    if worker is not None:
        info = worker.info()
        lines.append(f"worker {info.owner} is {info.state}: {info.busy} of {info.concurrency} slots are taken")
    if bus is not None:
        counted = {name: count for name, count in bus.counters.as_dict().items() if count}
        lines.append(f"counters: {counted}")
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        lines += [f"task {task.get_name()}: {_name(task)}", *_waits(task)]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 - documented, and there is no other way
        lines += [f"thread {names.get(ident, ident)}:", *_indented(traceback.format_stack(frame, _FRAMES))]
    return "\n".join(lines)


def _name(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), "__qualname__", task.get_coro()))


def _waits(task: asyncio.Task[Any]) -> Iterator[str]:
    """Where it waits: its coroutine, the one that awaits, and so on."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield f"  {frame.f_code.co_qualname} at {frame.f_code.co_filename}:{frame.f_lineno}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _indented(stack: list[str]) -> list[str]:
    return [line for entry in stack for line in entry.rstrip().splitlines()]
