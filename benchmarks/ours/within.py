"""Publishing inside the caller's transaction, and reacting inside one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psycopg
import sqlalchemy
from sqlalchemy.orm import Session

from postbus import Bus, Context

from ..limits.postgres import ORDER, each, in_threads, make, writing
from ..load import OrderPlaced, order, rate
from ..task import Measure, Task
from .bus import SUBSCRIPTION, Count, fill, receipts, settled


def publish(task: Task) -> Measure:
    """One event after the other inside one open transaction of psycopg, for one subscription."""
    with receipts(task.text("url")) as bus, psycopg.connect(task.text("url")) as connection:
        return each(task.events, lambda: bus.publish_sync(order(), within=connection))


def publish_in_session(task: Task) -> Measure:
    """One event after the other inside one open transaction of a SQLAlchemy session, for one subscription."""
    engine = sqlalchemy.create_engine(task.text("url").replace("postgresql:", "postgresql+psycopg:"))
    with receipts(task.text("url")) as bus, Session(engine) as session:
        return each(task.events, lambda: bus.publish_sync(order(), within=session))


def writers(task: Task) -> Measure:
    """So many writers in two processes: each commits an order and its event, over and over."""
    make(task)
    with receipts(task.text("url")):
        return writing(task, f"{__name__}:writing_events")


def writing_events(task: Task) -> Measure:
    """One of the two processes of `writers`."""
    with Bus(task.text("url")) as bus:

        def write(connection: psycopg.Connection[Any], number: int) -> None:
            connection.execute(ORDER, (f"o-{number}", 4200), prepare=True)
            bus.publish_sync(order(number), within=connection)

        return in_threads(task, write)


def react(task: Task) -> Measure:
    """A transactional subscriber: one INSERT, committed together with the done mark and the settle."""
    url, concurrency = task.text("url"), task.number("concurrency")

    async def main() -> Measure:
        count = Count(task.events)

        async def effect(event: OrderPlaced, context: Context) -> None:
            await context.tx.execute(ORDER, (event.order_id, event.cents))
            await count.receipt(event)

        bus = Bus(url, concurrency=concurrency)
        bus.add_subscriber(effect, OrderPlaced, name=SUBSCRIPTION, concurrency=concurrency, transactional=True)
        async with bus:
            begun = time.perf_counter()
            async with bus.worker() as worker:
                await count.reached.wait()
                await settled(bus, worker)
                return rate(task.events, time.perf_counter() - begun)

    make(task)
    asyncio.run(fill(url, task.events))
    return asyncio.run(main())
