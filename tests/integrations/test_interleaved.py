"""Two writers whose transactions interleave: what each committed is there, in its order, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import uuid4

import psycopg
from desks import POSTGRES, Desk

from postbus import Bus, event

ROUNDS = 200


@event("orders.order.changed", key="order_id")
@dataclass(frozen=True)
class OrderChanged:
    order_id: str
    change: str


@dataclass
class Writer:
    """One connection or session, and what it has in its open transaction, by savepoint."""

    desk: Desk
    bus: Bus
    table: str
    committed: list[OrderChanged] = field(default_factory=list)
    levels: list[list[OrderChanged]] = field(default_factory=lambda: [[]])

    async def step(self, luck: random.Random, names: Iterator[str]) -> None:
        match luck.choice(("publish", "publish", "publish", "savepoint", "take back", "release", "commit", "rollback")):
            case "publish":
                change = OrderChanged(luck.choice("ab"), next(names))
                await self.desk.write(f"INSERT INTO {self.table} VALUES ('{change.change}')")
                await self.bus.publish(change, within=self.desk.given)
                self.levels[-1].append(change)
            case "savepoint":
                await self.desk.write(f"SAVEPOINT s{len(self.levels)}")
                self.levels.append([])
            case "take back" if len(self.levels) > 1:
                self.levels.pop()
                await self.desk.write(f"ROLLBACK TO SAVEPOINT s{len(self.levels)}")
            case "release" if len(self.levels) > 1:
                inner = self.levels.pop()
                await self.desk.write(f"RELEASE SAVEPOINT s{len(self.levels)}")
                self.levels[-1].extend(inner)
            case "commit":
                await self.end(commit=True)
            case "rollback":
                await self.end(commit=False)
            case _:
                await self.desk.write("SELECT 1")

    async def end(self, *, commit: bool) -> None:
        await self.desk.write("SELECT 1")
        if commit:
            self.committed.extend(change for level in self.levels for change in level)
            await self.desk.commit()
        else:
            await self.desk.rollback()
        self.levels = [[]]


async def test_200_interleavings_of_two_writers(postgres_url: str) -> None:
    namespace = f"t{uuid4().hex[:12]}"
    bus = Bus(postgres_url, namespace=namespace)
    got: list[OrderChanged] = []

    @bus.subscriber(OrderChanged, ordered=True)
    async def ledger(event: OrderChanged) -> None:
        got.append(event)

    with psycopg.connect(postgres_url) as connection:
        connection.execute(f"CREATE TABLE {namespace}_changes (change text)")
    luck = random.Random(20)
    names = (f"{n:05}" for n in range(100_000))
    async with bus, AsyncExitStack() as stack:
        desks = [await stack.enter_async_context(kind.open(postgres_url)) for kind in POSTGRES]
        writers = [Writer(desk, bus, f"{namespace}_changes") for desk in desks]
        for _ in range(ROUNDS):
            two = luck.sample(writers, 2)
            for _ in range(luck.randint(4, 16)):
                await luck.choice(two).step(luck, names)
            for writer in two:
                await writer.end(commit=luck.random() < 0.8)
        await bus.drain()
    for writer in writers:
        for key in "ab":
            mine = [change for change in writer.committed if change.order_id == key]
            assert [change for change in got if change in mine] == mine, "each writer's changes come in its order"
    with psycopg.connect(postgres_url) as connection:
        rows = {row[0] for row in connection.execute(f"SELECT change FROM {namespace}_changes")}
    assert len(got) == len(rows) > 200
    assert {change.change for change in got} == rows
    assert rows == {change.change for writer in writers for change in writer.committed}
