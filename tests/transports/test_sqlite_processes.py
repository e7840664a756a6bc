"""Many processes on one SQLite file: nothing is lost, nothing comes twice, and nobody hears of locks."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from sqlite_ground import broken_laws, item, opened

from postbus.delivery import Ack, Delivery, Failure, Outcome, Requeue
from postbus.transport import Settled, Stored
from postbus.transports.sqlite import SqliteTransport

PROCESSES = 8
EACH = 2_500
BATCH = 50
BOOM = Failure("ValueError", "boom")


def test_eight_processes_publish_and_work_on_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    left = context.Value("i", PROCESSES * EACH)
    path, answers = tmp_path / "shop.db", tmp_path / "answers"
    asyncio.run(_prepare(path))
    processes = [context.Process(target=_run, args=(path, answers, number, left)) for number in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(50)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    handled = answers.read_text().splitlines()
    assert sorted(handled) == sorted(f"{number}-{n}" for number in range(PROCESSES) for n in range(EACH))
    assert broken_laws(path) == []


async def _prepare(path: Path) -> None:
    await (await opened(path)).close()


def _run(path: Path, answers: Path, number: int, left: Synchronized[int]) -> None:
    handled = asyncio.run(_flow(path, number, left))
    file = os.open(answers, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b"".join(body + b"\n" for body in handled))
    os.close(file)


async def _flow(path: Path, number: int, left: Synchronized[int]) -> list[bytes]:
    """Publish this process's share, and handle whatever comes until all of everybody's are handled."""
    transport = await opened(path)
    handled: list[bytes] = []
    async with asyncio.TaskGroup() as both:
        both.create_task(_publish(transport, number))
        both.create_task(_work(transport, number, left, handled))
    await transport.close()
    return handled


async def _publish(transport: SqliteTransport, number: int) -> None:
    for start in range(0, EACH, BATCH):
        batch = [item(b"%d-%d" % (number, start + n)) for n in range(BATCH)]
        assert await transport.append(batch) == [Stored(1)] * BATCH


async def _work(transport: SqliteTransport, number: int, left: Synchronized[int], handled: list[bytes]) -> None:
    while left.value:
        claimed = await transport.claim("s", owner=f"w{number}", limit=40, lease=30)
        outcomes = [(delivery, _outcome(delivery)) for delivery in claimed.deliveries]
        assert await transport.settle(outcomes) == [Settled()] * len(outcomes)
        done = [delivery.envelope.body for delivery, outcome in outcomes if isinstance(outcome, Ack)]
        handled += done
        with left.get_lock():
            left.value -= len(done)
        if not outcomes:
            await transport.wait(["s"], 0.05)


def _outcome(delivery: Delivery) -> Outcome:
    """One in ten fails once, so that requeues are in the mix."""
    fails = delivery.attempt == 1 and delivery.envelope.id_bytes[-1] % 10 == 0
    return Requeue(0.001, BOOM) if fails else Ack()
