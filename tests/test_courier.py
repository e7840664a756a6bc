"""The courier: who leaves together, who leaves alone, and what a cancelled caller changes for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from uuid import uuid4

import pytest

from postbus.courier import Courier
from postbus.envelope import Envelope
from postbus.transport import Append, Outgoing, Stored, Transport


class Box:
    """Stores what it is given, and notes which keys came together; answers when the gate is open."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.came = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, items: Sequence[Outgoing]) -> Sequence[Append]:
        self.batches.append("".join(item.envelope.key or "" for item in items))
        self.came.set()
        await asyncio.sleep(0)
        await self.gate.wait()
        return [Stored(1)] * len(items)


def item(key: str) -> Outgoing:
    return Outgoing(Envelope(uuid4().bytes, "a.b.c", "a.b", key, 0, 1, "x", b""))


@pytest.fixture
async def box() -> Box:
    return Box()


def courier_to(box: Box) -> Courier:
    return Courier(cast(Transport, cast(Any, box)), 5.0, asyncio.get_running_loop())


async def test_those_who_publish_in_one_turn_leave_as_one_batch(box: Box) -> None:
    courier = courier_to(box)
    answers = await asyncio.gather(*(courier.send([item(key)]) for key in "abc"))
    assert box.batches == ["abc"]
    assert answers == [[Stored(1)]] * 3


async def test_those_who_were_answered_together_leave_together_again(box: Box) -> None:
    courier = courier_to(box)

    async def publisher(key: str) -> None:
        for _ in range(3):
            await courier.send([item(key)])

    box.gate.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(publisher("a"))
        await box.came.wait()
        for key in "bcd":
            group.create_task(publisher(key))
        await asyncio.sleep(0)
        box.gate.set()
    assert box.batches[0] == "a"
    assert [sorted(batch) for batch in box.batches[1:3]] == [list("abcd")] * 2


async def test_whoever_comes_meanwhile_leaves_with_the_next_batch(box: Box) -> None:
    courier = courier_to(box)
    box.gate.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(courier.send([item("a")]))
        await box.came.wait()
        for key in "bc":
            group.create_task(courier.send([item(key)]))
            await asyncio.sleep(0)
        box.gate.set()
    assert box.batches == ["a", "bc"]


@pytest.mark.parametrize("gone", ["a", "b"])
async def test_who_stops_waiting_before_it_leaves_is_left_out(box: Box, gone: str) -> None:
    courier = courier_to(box)
    sends = {key: asyncio.ensure_future(courier.send([item(key)])) for key in "abc"}
    await asyncio.sleep(0)
    sends[gone].cancel()
    outcomes = await asyncio.gather(*sends.values(), return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes] == [key == gone for key in "abc"]
    assert box.batches == ["abc".replace(gone, "")]


async def test_one_who_is_cancelled_under_way_holds_up_nobody(box: Box) -> None:
    courier = courier_to(box)
    box.gate.clear()
    alone = asyncio.ensure_future(courier.send([item("a")]))
    await box.came.wait()
    behind = asyncio.ensure_future(courier.send([item("b")]))
    await asyncio.sleep(0)
    alone.cancel()
    box.gate.set()
    assert await behind == [Stored(1)]
    assert box.batches == ["a", "b"]
    with pytest.raises(asyncio.CancelledError):
        await alone
