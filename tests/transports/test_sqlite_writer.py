"""SQLite's one writer: shared commits, deadlines, cancelled callers, threads, forks, other processes."""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlite_ground import broken_laws, claim, item, items, opened, settle, unstorable

from postbus.delivery import Ack, Delivery, Release
from postbus.errors import Closed, ForkError, PublishFailed, TransportError, UnknownSubscription
from postbus.transport import Append, Refused, Stored
from postbus.transports.sqlite import SqliteTransport
from postbus.transports.sqlite.operation import Operation
from postbus.transports.sqlite.store import Transaction


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop.db"


@pytest.fixture
async def transport(path: Path) -> AsyncIterator[SqliteTransport]:
    transport = await opened(path)
    yield transport
    await transport.close()
    assert broken_laws(path) == []


class Hog:
    """Another program's connection, that holds the write lock."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self._connection.execute("COMMIT")
        self._connection.close()


# -- shared commits


async def test_what_waits_together_commits_together(path: Path, transport: SqliteTransport) -> None:
    hog = Hog(path)
    waiting = [asyncio.create_task(transport.append([item()])) for _ in range(50)]
    await asyncio.sleep(0)
    commits = _commits(path)
    hog.release()
    assert await asyncio.gather(*waiting) == [[Stored(1)]] * 50
    assert _commits(path) - commits <= 2


def _commits(path: Path) -> int:
    """How often the file header's change counter moved; WAL keeps it in the log, so: how many frames say commit."""
    log = path.with_name(path.name + "-wal").read_bytes()
    size = 24 + 4096
    return sum(log[at + 4 : at + 8] != b"\0\0\0\0" for at in range(32, len(log), size))


async def test_a_bad_neighbour_changes_nothing_for_the_others(path: Path, transport: SqliteTransport) -> None:
    hog = Hog(path)
    good = [asyncio.create_task(transport.append([item(b"good")])) for _ in range(5)]
    bad = asyncio.create_task(transport.append([unstorable()]))
    gone = asyncio.create_task(claim(transport, "nobody"))
    more = asyncio.create_task(transport.append([item(b"good")]))
    await asyncio.sleep(0.01)
    hog.release()
    assert await asyncio.gather(*good, more) == [[Stored(1)]] * 6
    assert isinstance((await bad)[0], Refused)
    with pytest.raises(UnknownSubscription):
        await gone
    assert len((await claim(transport)).deliveries) == 6


async def test_an_event_that_cannot_be_stored_leaves_its_batch_alone(transport: SqliteTransport) -> None:
    for answers in (
        await transport.append([item(), unstorable(), item()]),
        transport.append_now([item(), unstorable(), item()], 1),
    ):
        assert [type(answer).__name__ for answer in answers] == ["Stored", "Refused", "Stored"]


async def test_an_interrupt_in_a_callers_thread_leaves_nothing_open_and_nobody_waiting(
    transport: SqliteTransport,
) -> None:
    writer = transport._open_house().writer

    def store(transaction: Transaction) -> object:
        return transport._appending.append(transaction, [item(b"half done")])

    def interrupt(_: Transaction) -> None:
        raise KeyboardInterrupt

    neighbour = Operation(store, writer.deadline(5))
    neighbour.gate = threading.Lock()
    neighbour.gate.acquire()
    with writer._lock, pytest.raises(KeyboardInterrupt):
        writer._serve([neighbour, Operation(interrupt, writer.deadline(5))])
    assert neighbour.gate.acquire(timeout=5)
    with pytest.raises(TransportError, match="broken off"):
        neighbour.result()
    assert await transport.append([item(b"after")]) == [Stored(1)]
    assert [delivery.envelope.body for delivery in (await claim(transport)).deliveries] == [b"after"]


# -- a lock that somebody else holds


async def test_what_could_not_begin_in_time_is_refused_and_never_appears(path: Path) -> None:
    transport = await opened(path, options="?busy_timeout=0.2", publish_timeout=0.1)
    await transport.append([item()])
    (held,) = (await claim(transport)).deliveries
    hog = Hog(path)
    began = time.monotonic()
    appended, now, *others = await asyncio.gather(
        transport.append([item()]),
        asyncio.to_thread(transport.append_now, [item()], 0.1),
        claim(transport),
        transport.settle([(held, Ack())]),
        transport.pause("s"),
        return_exceptions=True,
    )
    assert time.monotonic() - began < 5
    for answers in (appended, now):
        assert isinstance(answers, list)
        assert isinstance(answers[0], Refused)
        assert isinstance(answers[0].error, PublishFailed)
        assert "busy" in str(answers[0].error)
    # An empty subscription is seen without the lock; the others say that they were not done.
    assert [isinstance(other, TransportError) for other in others] == [False, True, True]
    hog.release()
    assert await transport.append([item(b"after")]) == [Stored(1)]
    assert [d.envelope.body for d in (await claim(transport)).deliveries] == [b"after"]
    await transport.close()
    assert broken_laws(path) == []


async def test_a_lock_that_is_let_go_in_time_is_had(path: Path, transport: SqliteTransport) -> None:
    hog = Hog(path)
    waiting = asyncio.create_task(transport.append([item()]))
    in_thread = asyncio.create_task(asyncio.to_thread(transport.append_now, [item()], 5))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    hog.release()
    assert await waiting == await in_thread == [Stored(1)]


# -- callers who stop waiting


async def test_a_cancelled_claim_gives_back_what_it_took(path: Path, transport: SqliteTransport) -> None:
    await transport.append(items(10))
    for turns in range(8):
        task = asyncio.create_task(claim(transport, limit=10))
        await asyncio.sleep(0)
        time.sleep(0.02)  # noqa: ASYNC251 - the answer comes while the loop is held up: between it and its taker
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (left,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(left, BaseException):
            await settle(transport, left.deliveries, Release())
        found: list[Delivery] = []
        async with asyncio.timeout(20):
            while len(found) < 10:
                found += (await claim(transport, limit=10)).deliveries
        await settle(transport, found, Release())


async def test_a_cancelled_append_that_has_not_begun_stores_nothing(path: Path, transport: SqliteTransport) -> None:
    hog = Hog(path)
    first = asyncio.create_task(transport.append([item(b"first")]))
    second = asyncio.create_task(transport.append([item(b"second")]))
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    hog.release()
    await first
    assert [d.envelope.body for d in (await claim(transport)).deliveries] == [b"first"]


# -- threads


async def test_threads_and_coroutines_append_side_by_side(transport: SqliteTransport) -> None:
    answers: list[Append] = []

    def publish() -> None:
        for _ in range(100):
            answers.extend(transport.append_now([item()], 10))

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        answers.extend(await transport.append([item()]))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert answers == [Stored(1)] * 900
    assert len((await claim(transport, limit=1000)).deliveries) == 900


async def test_several_event_loops_share_one_transport(transport: SqliteTransport) -> None:
    async def publish() -> list[Append]:
        return [answer for _ in range(20) for answer in await transport.append([item()])]

    results = await asyncio.gather(*(asyncio.to_thread(lambda: asyncio.run(publish())) for _ in range(4)))
    assert results == [[Stored(1)] * 20] * 4
    assert len((await claim(transport)).deliveries) == 80


async def test_after_close_everything_says_so(path: Path) -> None:
    transport = await opened(path)
    waiting = asyncio.create_task(_second_wait(transport))
    await asyncio.sleep(0.01)
    await transport.close()
    await transport.close()
    with pytest.raises(Closed):
        await waiting
    for act in (transport.append([item()]), claim(transport), transport.stats(), transport.wait(["s"], 1)):
        with pytest.raises(Closed):
            await act
    with pytest.raises(Closed):
        transport.append_now([item()], 1)


async def _second_wait(transport: SqliteTransport) -> None:
    await transport.wait(["s"], 10)
    await transport.wait(["s"], 10)


async def test_a_closed_transport_leaves_no_thread_and_opens_again(path: Path) -> None:
    before = set(threading.enumerate())
    transport = await opened(path)
    for _ in range(3):
        await transport.append([item()])
        await asyncio.gather(transport.wait(["s"], 0.01), transport.stats())
        await transport.close()
        await transport.open()
    assert len((await claim(transport)).deliveries) == 3
    await transport.close()
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert [name for name in left if not name.startswith("asyncio")] == []


async def test_memory_is_let_go_of_with_the_batch(transport: SqliteTransport) -> None:
    class Body(bytes):
        """Bytes whose life can be followed."""

    before = [o for o in gc.get_objects() if type(o).__name__ == "Body"]
    await transport.append([item(Body(b"x" * 100))])
    await transport.append([item()])
    gc.collect()
    assert [o for o in gc.get_objects() if type(o).__name__ == "Body"] == before


# -- forks


async def test_a_forked_child_is_refused_and_harms_nobody(path: Path, transport: SqliteTransport) -> None:
    await transport.append([item(b"before")])
    await transport.stats()
    read, write = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover - another process
        _in_child(transport, write)
    os.close(write)
    with os.fdopen(read) as answers:
        said = answers.read()
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert (said, status) == ("ForkError ForkError ForkError closed", 0)
    assert await transport.append([item(b"after")]) == [Stored(1)]
    assert [d.envelope.body for d in (await claim(transport)).deliveries] == [b"before", b"after"]


def _run(step: Coroutine[Any, Any, object]) -> None:  # pragma: no cover - another process
    """What needs no event loop, as the parent's still counts as running here."""
    try:
        step.send(None)
    except StopIteration:
        return


def _in_child(transport: SqliteTransport, write: int) -> None:  # pragma: no cover - another process
    said = []
    try:
        for act in (
            partial(transport.append_now, [item()], 1),
            transport.renewer,
            lambda: _run(transport.stats()),
            lambda: _run(transport.close()),
        ):
            try:
                act()
            except ForkError as error:
                said.append(type(error).__name__)
        said.append("closed")
        gc.collect()
    finally:
        os.write(write, " ".join(said).encode())
        os._exit(0)
