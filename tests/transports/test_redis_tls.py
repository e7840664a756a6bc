"""Redis over TLS: every connection of a bus, single servers and clusters, and what is said where trust is missing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis_ground import declare, opened, publish

from postbus import AccessRefused, Bus, DeliveryContext, TransportError, event
from postbus.address import Address
from postbus.transports.redis import using
from postbus.transports.redis.door import hang_up
from postbus.transports.redis.doors import door_of
from redis_servers import clustered
from server_kinds import RedisKind
from servers import Server, own
from tls_ground import Authority, TlsKind, TlsNode, TlsSentinel, authority, tls_servers


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    tls_servers()  # or skip
    return authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def secured(signer: Authority) -> Iterator[Server]:
    yield from own(TlsKind(signer=signer))


async def handled(url: str, namespace: str = "postbus") -> list[str]:
    """What a worker of this bus gets, that runs longer than its lease."""
    bus = Bus(url, lease=1.2, namespace=namespace)
    done: list[str] = []
    complete = asyncio.Event()

    @bus.subscriber(OrderPlaced, name="receipts")
    async def receipts(placed: OrderPlaced, context: DeliveryContext) -> None:
        await asyncio.sleep(2.0)
        done.append(f"{placed.order_id} {context.attempt}")
        complete.set()

    async with bus, bus.worker():
        await bus.publish(OrderPlaced("o-1"))
        async with asyncio.timeout(20):
            await complete.wait()
        await bus.publish(OrderPlaced("o-2"))
        complete.clear()
        async with asyncio.timeout(20):
            await complete.wait()
    return done


async def test_a_bus_publishes_works_renews_and_rings_over_tls(secured: Server) -> None:
    """The server has no other port, so the shared connection, the bell's and the lease thread's are all secured."""
    assert await handled(secured.url) == ["o-1 1", "o-2 1"]


async def test_a_bell_is_heard_over_tls(secured: Server) -> None:
    async with opened(secured.url, namespace="bell") as worker, opened(secured.url, namespace="bell") as publisher:
        await declare(worker)
        await worker.wait(["receipts"], 5)
        ringing = asyncio.create_task(worker.wait(["receipts"], 30))
        await asyncio.sleep(0)
        await publish(publisher, "k")
        async with asyncio.timeout(10):
            assert await ringing == {"receipts"}


async def test_a_client_shows_its_certificate(signer: Authority) -> None:
    certificate, key = signer.signed("client")
    for server in own(TlsKind(signer=signer, mutual=True)):
        assert await handled(f"{server.url}&ssl_certfile={certificate}&ssl_keyfile={key}") == ["o-1 1", "o-2 1"]
        for _ in range(10):  # what is missing is said late, and may be lost with the connection
            with pytest.raises(TransportError, match="ssl_certfile="):
                async with Bus(server.url):
                    pass


def test_hanging_up_waits_for_no_farewell(secured: Server) -> None:
    """A server that is too slow to say its own would leave the socket open behind a loop that ends: a warning."""

    async def visit() -> None:
        connection = await door_of(Address.parse(secured.url)).connect()
        secured.pause()
        await hang_up(connection)

    try:
        asyncio.run(visit())
    finally:
        secured.resume()
    gc.collect()


async def test_an_authority_that_is_not_trusted_is_refused_at_once(secured: Server, tmp_path: Path) -> None:
    stranger = authority(tmp_path)
    for query in (f"?ssl_ca_certs={stranger.ca}", ""):
        with pytest.raises(AccessRefused, match=r"certificate.*ssl_ca_certs"):
            async with Bus(f"rediss://localhost:{secured.port}/0{query}"):
                pass


async def test_a_certificate_for_another_host_is_refused_at_once(signer: Authority, tmp_path: Path) -> None:
    other = authority(tmp_path)
    other.signed("server", "DNS:redis.example")
    for server in own(_Blind(signer=other)):
        with pytest.raises(AccessRefused, match=r"ssl_check_hostname"):
            async with Bus(server.url):
                pass
        assert await handled(f"{server.url}&ssl_check_hostname=false") == ["o-1 1", "o-2 1"]


class _Blind(TlsKind):
    """Started without looking at its name."""

    def greet(self, connection: object) -> bool:
        return True


async def test_a_file_that_is_not_there_is_refused_at_once(secured: Server) -> None:
    with pytest.raises(AccessRefused, match=r"no such file as ssl_ca_certs="):
        async with Bus(f"rediss://localhost:{secured.port}/0?ssl_ca_certs=/nowhere/ca.pem"):
            pass


async def test_a_server_without_tls_is_named_as_one() -> None:
    for server in own(RedisKind()):
        with pytest.raises(TransportError, match=r"TLS.*redis://"):
            async with Bus(f"{server.url.replace('redis://', 'rediss://')}?timeout=1"):
                pass


async def test_a_client_that_is_handed_in_brings_its_tls(secured: Server, signer: Authority) -> None:
    client = redis.Redis(host="localhost", port=secured.port, ssl=True, ssl_ca_certs=str(signer.ca))
    bus = Bus(using(client), namespace="client")
    async with bus:
        await bus.publish(OrderPlaced("o-1"))
    assert client.exists("{client}:registry") == 1
    client.close()


async def test_a_cluster_over_tls(signer: Authority) -> None:
    """Its servers tell a client that speaks TLS of their TLS ports."""
    with clustered(of=TlsNode(signer=signer, options=("--repl-diskless-sync-delay", "0"))) as cluster:
        ports = [(server.folder / "tls").read_text() for server in cluster.servers]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        assert await handled(f"rediss+cluster://{hosts}/0?ssl_ca_certs={signer.ca}") == ["o-1 1", "o-2 1"]


async def test_a_sentinel_over_tls(secured: Server, signer: Authority) -> None:
    """Both of them: whom the bus asks, and where it is sent."""
    for sentinel in own(TlsSentinel(watches=secured.port, signer=signer)):
        port = (sentinel.folder / "tls").read_text()
        url = f"rediss+sentinel://localhost:{port}/0?service=mymaster&ssl_ca_certs={signer.ca}"
        assert await handled(url, namespace="watched") == ["o-1 1", "o-2 1"]
