"""Relays are killed, frozen and stopped while events flow, and the transport comes and goes.  FAULTS B 17, 19, 26."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from rig_events import Happened

from postbus import Bus
from servers import Server

HERE = Path(__file__).parent
KEYS = 10


class Relays:
    """An outbox, a target, and relays in processes of their own."""

    def __init__(self, folder: Path, url: str, outbox: str) -> None:
        self.url, self.outbox, self.namespace = url, outbox, f"t{uuid4().hex[:12]}"
        self._log = (folder / "relays.log").open("ab")
        self._env = {
            **os.environ, "RELAY_URL": url, "RELAY_OUTBOX": outbox, "RELAY_NAMESPACE": self.namespace,
        }  # fmt: skip
        self.started: list[subprocess.Popen[bytes]] = []
        self.published = 0

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=HERE, env=self._env, stdout=self._log, stderr=self._log
        )
        self.started.append(process)
        return process

    def relay(self, batch: int = 20, forgets: int | None = None) -> subprocess.Popen[bytes]:
        return self.start("relay_program.py", str(batch), *([] if forgets is None else [str(forgets)]))

    def command(self, *options: str) -> subprocess.Popen[bytes]:
        return self.start("-m", "postbus", "relay", "relay_app:bus", *options)

    @contextlib.asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """A bus that publishes, and sees what arrives."""
        bus = Bus(self.url, outbox=self.outbox, namespace=self.namespace, publish_timeout=5)
        self.seen: list[tuple[str, int]] = []

        @bus.subscriber(Happened, name="ordered", ordered=True)
        async def ordered(happened: Happened) -> None:
            self.seen.append((happened.key, happened.number))

        async with bus:
            yield bus

    async def publish(self, bus: Bus, count: int) -> None:
        for _ in range(count):
            self.published += 1
            await bus.publish(Happened(self.published, f"k{self.published % KEYS}"))

    async def flow(self, bus: Bus, enough: asyncio.Event) -> None:
        """Publish until told that it is enough."""
        while not enough.is_set():
            await self.publish(bus, 10)
            await asyncio.sleep(0.01)

    async def emptied(self, bus: Bus, within: float = 30) -> None:
        assert bus.outbox is not None
        end = time.monotonic() + within
        while (await bus.outbox.stats()).pending:
            assert time.monotonic() < end, self.log_tail()
            await asyncio.sleep(0.02)

    async def all_arrived_once_and_in_order(self, bus: Bus) -> None:
        await bus.drain(timeout=40, relay=False)
        assert bus.outbox is not None
        assert (await bus.outbox.stats()).dead == 0
        assert len(self.seen) == self.published, self.log_tail()
        for key in {key for key, _ in self.seen}:
            numbers = [number for one, number in self.seen if one == key]
            assert numbers == sorted(set(numbers)), key

    def log_tail(self) -> str:
        return "\n".join(Path(self._log.name).read_text(errors="replace").splitlines()[-30:])

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._log.close()


@pytest.fixture(params=["postgres to redis", "sqlite to postgres"])
def relays(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Relays]:
    outbox, _, target = request.param.partition(" to ")
    place = f"sqlite:///{tmp_path}/shop.db" if outbox == "sqlite" else request.getfixturevalue(f"{outbox}_url")
    made = Relays(tmp_path, request.getfixturevalue(f"{target}_url"), place)
    yield made
    made.close()


async def test_relays_that_die_between_sending_and_forgetting_double_nothing(relays: Relays) -> None:
    """Row 17, the crash point: again and again at the worst moment."""
    async with relays.bus() as bus:
        await relays.publish(bus, 300)
        for _ in range(10):
            relay = relays.relay(batch=10, forgets=random.randint(1, 3))
            await asyncio.to_thread(relay.wait, 30)
            assert relay.returncode == -signal.SIGKILL, relays.log_tail()
            await relays.publish(bus, 10)
        relays.relay()
        await relays.emptied(bus)
        await relays.all_arrived_once_and_in_order(bus)


@pytest.mark.soak
async def test_relays_that_are_killed_while_events_flow_lose_nothing_and_double_nothing(relays: Relays) -> None:
    """Row 17: two relays at once, one of them killed at any moment."""
    async with relays.bus() as bus:
        enough = asyncio.Event()
        flow = asyncio.create_task(relays.flow(bus, enough))
        running = [relays.relay(), relays.relay()]
        for _ in range(25):
            await asyncio.sleep(random.uniform(0.1, 0.7))
            victim = running.pop(random.randrange(2))
            victim.kill()
            await asyncio.to_thread(victim.wait)
            running.append(relays.relay())
        enough.set()
        await flow
        await relays.emptied(bus)
        await relays.all_arrived_once_and_in_order(bus)


async def test_a_frozen_relay_is_replaced_and_does_no_harm_when_it_wakes_up(relays: Relays) -> None:
    async with relays.bus() as bus:
        assert bus.outbox is not None
        enough = asyncio.Event()
        flow = asyncio.create_task(relays.flow(bus, enough))
        running = [relays.relay(), relays.relay()]
        for _ in range(4):
            await asyncio.sleep(0.4)
            leader = await leading_pid(bus)
            if leader is None:
                continue
            os.kill(leader, signal.SIGSTOP)
            await asyncio.sleep(1.0)  # two leases
            relayed = (await bus.outbox.stats()).pending
            os.kill(leader, signal.SIGCONT)
            assert relayed < relays.published
        enough.set()
        await flow
        await relays.emptied(bus)
        assert all(one.poll() is None for one in running)
        await relays.all_arrived_once_and_in_order(bus)


async def leading_pid(bus: Bus) -> int | None:
    assert bus.outbox is not None
    found = (await bus.outbox.stats()).relays
    return found[0].pid if found else None


async def until_led(bus: Bus) -> None:
    while await leading_pid(bus) is None:  # noqa: ASYNC110 - what happens is in another process
        await asyncio.sleep(0.02)


async def test_a_relay_that_is_told_to_stop_leaves_the_rest_to_the_next(relays: Relays) -> None:
    async with relays.bus() as bus:
        enough = asyncio.Event()
        flow = asyncio.create_task(relays.flow(bus, enough))
        for _ in range(2):
            relay = relays.command("--lease", "0.5")
            await until_led(bus)
            await asyncio.sleep(0.3)
            relay.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(relay.wait, 20) == 0, relays.log_tail()
            assert await leading_pid(bus) is None, "it said that it is gone"
        enough.set()
        await flow
        last = relays.command("--burst")
        assert await asyncio.to_thread(last.wait, 30) == 0, relays.log_tail()
        await relays.emptied(bus, within=1)
        await relays.all_arrived_once_and_in_order(bus)


async def test_a_transport_that_is_killed_again_and_again_gets_everything(
    redis_server: Server, tmp_path: Path, postgres_url: str
) -> None:
    """Row 27 for the relay: publishes never notice."""
    relays = Relays(tmp_path, redis_server.url, postgres_url)
    with contextlib.closing(relays):
        async with relays.bus() as bus:
            enough = asyncio.Event()
            flow = asyncio.create_task(relays.flow(bus, enough))
            relays.relay()
            relays.relay()
            for _ in range(4):
                await asyncio.sleep(0.5)
                await asyncio.to_thread(redis_server.kill)
                await asyncio.sleep(1.0)
                await asyncio.to_thread(redis_server.start)
            enough.set()
            await flow
            await relays.emptied(bus)
            await relays.all_arrived_once_and_in_order(bus)


async def test_relays_whose_connections_are_terminated_go_on(redis_url: str, postgres_url: str, tmp_path: Path) -> None:
    """Row 44 for the relay."""
    relays = Relays(tmp_path, redis_url, postgres_url)
    with contextlib.closing(relays), psycopg.connect(postgres_url, autocommit=True) as admin:
        async with relays.bus() as bus:
            relays.relay()
            relays.relay()
            for _ in range(10):
                await relays.publish(bus, 20)
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE application_name = 'postbus' AND random() < 0.5 AND state = 'idle'"
                )
                await asyncio.sleep(0.2)
            await relays.emptied(bus)
            await relays.all_arrived_once_and_in_order(bus)


async def test_a_transaction_that_stays_open_in_another_database_holds_up_nothing(
    redis_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """Row 19."""
    other = f"other_{uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {other}")
        try:
            with psycopg.connect(postgres_url, dbname=other) as stuck:
                stuck.execute("CREATE TABLE held (n integer)")
                relays = Relays(tmp_path, redis_url, postgres_url)
                with contextlib.closing(relays):
                    async with relays.bus() as bus:
                        await relays.publish(bus, 200)
                        relays.relay()
                        await relays.emptied(bus, within=10)
                        await relays.all_arrived_once_and_in_order(bus)
        finally:
            admin.execute(f"DROP DATABASE {other} WITH (FORCE)")
