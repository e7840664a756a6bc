"""procrastinate on psycopg: a worker of concurrency 100 that deletes what has succeeded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
from procrastinate import App, PsycopgConnector

from ..child import ask, start
from ..load import latencies, order, pace, rate
from ..task import Measure, Task

_CONCURRENCY = 100


def both(task: Task) -> Measure:
    """A publisher process and this one, which works."""

    async def main() -> Measure:
        async with _app(task).open_async() as app:
            await app.schema_manager.apply_schema_async()
        sender = start(task.other(f"{__name__}:send_many"))
        await _run(task, lambda _: None)
        ended = time.monotonic()
        said = await asyncio.to_thread(ask, sender, 10)
        assert said.measure is not None, said.error
        return rate(task.events, ended - said.measure["began"])

    return asyncio.run(main())


def send_many(task: Task) -> Measure:
    """The publisher process of `both`: 100 jobs in each call."""

    async def main() -> Measure:
        app = _app(task)
        receipt = _task(app, lambda _: None)
        placed = msgspec.to_builtins(order())
        async with app.open_async():
            began = time.monotonic()
            for _ in range(task.events // 100):
                await receipt.batch_defer_async(*({"order": placed, "sent_ns": 0} for _ in range(100)))
            return {"began": began}

    return asyncio.run(main())


def latency(task: Task) -> Measure:
    """A publisher process at a steady rate, and this one, which works."""

    async def main() -> list[float]:
        spans: list[float] = []
        async with _app(task).open_async() as app:
            await app.schema_manager.apply_schema_async()
        sender = start(task.other(f"{__name__}:send"))
        await _run(task, lambda sent_ns: spans.append((time.monotonic_ns() - sent_ns) / 1e9))
        await asyncio.to_thread(ask, sender, 10)
        return spans

    return latencies(asyncio.run(main()))


def send(task: Task) -> Measure:
    """The publisher process of `latency`."""

    async def main() -> None:
        app = _app(task)
        receipt = _task(app, lambda _: None)
        placed = msgspec.to_builtins(order())
        async with app.open_async():
            await asyncio.sleep(0.5)

            async def one() -> None:
                await receipt.defer_async(order=placed, sent_ns=time.monotonic_ns())

            await pace(one, task.events, task.number("per_second"))

    asyncio.run(main())
    return {}


async def _run(task: Task, note: Callable[[int], object]) -> None:
    """Work until all have been seen."""
    logging.disable(logging.CRITICAL)
    app = _app(task)
    left, reached = task.events, asyncio.Event()

    def noted(sent_ns: int) -> None:
        nonlocal left
        note(sent_ns)
        left -= 1
        if not left:
            reached.set()

    _task(app, noted)
    async with app.open_async():
        running = asyncio.create_task(
            app.run_worker_async(concurrency=_CONCURRENCY, delete_jobs="successful", install_signal_handlers=False)
        )
        await reached.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _app(task: Task) -> App:
    return App(connector=PsycopgConnector(conninfo=task.text("url")))


def _task(app: App, note: Callable[[int], None]) -> Any:
    @app.task(name="receipt")
    async def receipt(order: dict[str, Any], sent_ns: int) -> None:  # noqa: ARG001 - what it carries
        note(sent_ns)

    return receipt
