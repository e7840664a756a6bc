"""The proxy of the fault tests does to connections what it says, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from proxy import Proxy


class Echo:
    """A server that remembers what it was sent and sends it back."""

    def __init__(self) -> None:
        self.heard = b""
        self.ends = 0
        self.news = threading.Condition()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"echo://me:secret@127.0.0.1:{self.listener.getsockname()[1]}/0?x=1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=[connection], daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(4096):
                with self.news:
                    self.heard += data
                    self.news.notify_all()
                connection.sendall(data)
        with self.news:
            self.ends += 1
            self.news.notify_all()

    def until(self, what: object) -> None:
        with self.news:
            assert self.news.wait_for(what, 10)  # type: ignore[arg-type]


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.listener.shutdown(socket.SHUT_RDWR)
    made.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.url) as made:
        yield made


@contextlib.contextmanager
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        yield connection


def test_what_is_sent_passes_and_the_address_is_the_same_but_for_the_port(proxy: Proxy) -> None:
    assert proxy.url == f"echo://me:secret@127.0.0.1:{proxy.port}/0?x=1"
    with client(proxy) as one:
        one.sendall(b"hello")
        assert one.recv(100) == b"hello"


def test_a_blackhole_holds_one_way_and_gives_it_back_when_it_heals(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as one:
        proxy.blackhole("replies")
        one.sendall(b"heard")
        echo.until(lambda: echo.heard == b"heard")
        one.settimeout(0.05)
        with pytest.raises(TimeoutError):
            one.recv(100)
        proxy.heal()
        one.settimeout(10)
        assert one.recv(100) == b"heard"
        proxy.blackhole("requests")
        one.sendall(b"more")
        time.sleep(0.05)  # nothing happens, which rings no bell
        assert echo.heard == b"heard"
        proxy.heal()
        assert one.recv(100) == b"more"


def test_a_cut_takes_the_answer_and_leaves_the_request(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as one, client(proxy) as other:
        proxy.cut(after=2, on=b"XADD")
        other.sendall(b"PING")
        assert other.recv(100) == b"PING"
        one.sendall(b"XADD stream")
        assert one.recv(100) == b"XA"
        with pytest.raises(ConnectionResetError):
            one.recv(100)
        echo.until(lambda: echo.heard == b"PINGXADD stream" and echo.ends == 1)
        other.sendall(b"XADD again")
        assert other.recv(100) == b"XADD again", "one cut was asked for"


def test_random_resets_are_the_same_for_the_same_seed(proxy: Proxy, echo: Echo) -> None:
    def until_reset() -> list[int]:
        proxy.reset_at_random(500, seed=7)
        counts = []
        for _ in range(5):
            count = 0
            with client(proxy) as one, contextlib.suppress(ConnectionError):
                while one.send(b"x") and one.recv(1):
                    count += 1
            counts.append(count)
        return counts

    first = until_reset()
    assert len(set(first)) > 1
    assert until_reset() == first
    assert proxy.resets == 10


def test_killed_connections_are_reset_and_new_ones_are_welcome_unless_refused(proxy: Proxy) -> None:
    with client(proxy) as one:
        one.sendall(b"x")
        assert one.recv(1) == b"x"
        proxy.blackhole()
        proxy.kill()
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    proxy.heal()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError), client(proxy):
        pass
    proxy.accept()
    with client(proxy) as one:
        one.sendall(b"y")
        assert one.recv(1) == b"y"


def test_half_a_connection_may_end(proxy: Proxy, echo: Echo) -> None:
    with client(proxy) as one:
        one.sendall(b"x")
        assert one.recv(1) == b"x"
        proxy.half_close("replies")
        assert one.recv(1) == b""
        one.sendall(b"still heard")
        echo.until(lambda: echo.heard == b"xstill heard")


async def test_each_piece_may_take_long(proxy: Proxy) -> None:
    proxy.delay(0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    began = time.monotonic()
    writer.write(b"slow")
    assert await reader.read(100) == b"slow"
    assert time.monotonic() - began >= 0.1
    writer.close()
    await writer.wait_closed()


def test_a_proxy_without_a_server_breaks_off(echo: Echo) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Proxy(f"echo://127.0.0.1:{port}/") as proxy, pytest.raises(ConnectionResetError), client(proxy) as one:
        one.recv(1)
