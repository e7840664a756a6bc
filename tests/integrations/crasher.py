"""A program that dies at each step of a transaction, one after the other, and says what was left: see test_crashes.py.

    python crasher.py publish|react KIND DATABASE_URL TRANSPORT_URL NAMESPACE

A step is something that is sent to a server, or the moment before a delivery is settled.  Each runs in a fork, so that
what is imported is imported once.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio import selector_events
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
import psycopg_pool
from desks import sqlalchemy_url
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from postbus import Bus, DeliveryContext, event
from postbus.dispatch import Done, Run

CRASHED = 9


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@event("orders.order.billed", key="order_id")
@dataclass(frozen=True)
class OrderBilled:
    order_id: str


class Crash:
    """Ends the process at the n-th step, once it is armed."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.armed = False

    def step(self) -> None:
        if self.armed:
            self._left -= 1
            if not self._left:
                os._exit(CRASHED)

    def before(self, owner: Any, name: str) -> None:
        """Each call of this method is a step."""
        method: Callable[..., Any] = getattr(owner, name)

        def stepping(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return method(*args, **kwargs)

        setattr(owner, name, stepping)


class Scene:
    """What is done in each fork."""

    def __init__(self, kind: str, database: str, transport: str, namespace: str) -> None:
        self.kind = kind
        self.database = database
        self.transport = transport
        self.namespace = namespace
        self.insert = f"INSERT INTO {namespace}_bill VALUES ('%s')"

    def bus(self, transactions: Any = None) -> Bus:
        bus = Bus(self.transport, namespace=self.namespace, transactions=transactions)

        async def bill(event: OrderPlaced, context: DeliveryContext) -> None:
            statement = self.insert % event.order_id
            await context.tx.execute(text(statement) if isinstance(context.tx, AsyncSession) else statement)
            if not self.transport.startswith("redis"):
                await context.publish(OrderBilled(event.order_id))

        bus.add_subscriber(bill, OrderPlaced, name="bill", transactional=self.kind != "plain")
        bus.add_subscriber(lambda event: None, OrderBilled, name="ledger")
        return bus

    async def publish(self, crash: Crash, name: str) -> None:
        """In the caller's transaction."""
        if self.kind == "psycopg":
            async with self.bus() as bus, await psycopg.AsyncConnection.connect(self.database) as connection:
                crash.armed = True
                await connection.execute(self.insert % name)
                await bus.publish(OrderPlaced(name), within=connection)
                await connection.commit()
                crash.step()
            return
        engine = create_async_engine(sqlalchemy_url(self.database, "asyncpg"))
        async with self.bus() as bus, AsyncSession(engine) as session:
            crash.armed = True
            await session.execute(text(self.insert % name))
            await bus.publish(OrderPlaced(name), within=session)
            await session.commit()
            crash.step()
            crash.armed = False
        await engine.dispose()

    async def react(self, crash: Crash, name: str) -> None:
        """As a worker does with one delivery."""
        engine = create_async_engine(sqlalchemy_url(self.database, "asyncpg"))
        pool = psycopg_pool.AsyncConnectionPool(self.database, min_size=0, max_size=2, open=False)
        given = {"own": None, "psycopg": pool, "session": async_sessionmaker(engine)}[self.kind]
        async with pool, self.bus(given) as bus:
            dispatch = bus.make_dispatch("bill")
            if bus._given is not None:
                await bus._given.prepare("bill")
            await bus.publish(OrderPlaced(name))
            transport = bus._life.transport
            claimed = await transport.claim("bill", owner=f"crasher-{name}", limit=1, lease=1)
            (delivery,) = claimed.deliveries
            crash.armed = True
            run = Run()
            outcome = dispatch.start(run, delivery)
            if outcome is None:
                outcome = await dispatch.finish(run, delivery)
            crash.step()
            if not isinstance(outcome, Done):
                await transport.settle([(delivery, outcome)])
            crash.armed = False
        await engine.dispose()

    async def recover(self) -> None:
        """A worker comes after all these."""
        engine = create_async_engine(sqlalchemy_url(self.database, "asyncpg"))
        pool = psycopg_pool.AsyncConnectionPool(self.database, min_size=0, max_size=2, open=False)
        given = {"own": None, "psycopg": pool, "session": async_sessionmaker(engine)}[self.kind]
        async with pool, self.bus(given) as bus:
            await bus.drain(timeout=30)
        await engine.dispose()

    async def backlog(self) -> int:
        async with Bus(self.transport, namespace=self.namespace, declare=False) as bus:
            return (await bus.stats())["bill"].backlog

    def rows(self) -> list[str]:
        with psycopg.connect(self.database) as connection:
            return [row[0] for row in connection.execute(f"SELECT name FROM {self.namespace}_bill ORDER BY name")]


def fork(work: Callable[[], Any]) -> int:
    """Run it in a child; how that ended."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def crashing(scene: Scene, what: str, step: int) -> None:
    crash = Crash(step)
    for owner in (psycopg.AsyncConnection, psycopg.Connection):
        crash.before(owner, "wait")
    crash.before(selector_events._SelectorSocketTransport, "write")  # type: ignore[attr-defined]
    asyncio.run(getattr(scene, what)(crash, f"{step:03}"))


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()  # a fork would say it again


def main() -> None:
    what, *places = sys.argv[1:]
    scene = Scene(*places)
    code, step = CRASHED, 0
    while code == CRASHED and step < 60:
        step += 1
        code = fork(partial(crashing, scene, what, step))
        left = {"step": step, "code": code, "rows": scene.rows()}
        if what == "publish":
            left["backlog"] = asyncio.run(scene.backlog())
        say(left)
    if what == "react":
        asyncio.run(scene.recover())
        say({"rows": scene.rows(), "backlog": asyncio.run(scene.backlog())})


if __name__ == "__main__":
    main()
