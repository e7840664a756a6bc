"""A network that fails when it is told to: real TCP between clients and one server, each way with faults of its own.

Knows no protocol, so it stands before any server.  Runs in threads: it works while the event loop of a test is busy.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Literal, Self
from urllib.parse import urlsplit

__all__ = ["Proxy", "Way"]

Way = Literal["requests", "replies"]

_WAYS: tuple[Way, Way] = ("requests", "replies")
_HOST = "127.0.0.1"


class _Pair:
    """One connection: the client's end and the server's."""

    def __init__(self, client: socket.socket, server: socket.socket, budget: int | None) -> None:
        self.client = client
        self.server = server
        self.budget = budget  # bytes, both ways together, until it is reset
        self.tail = b""
        self.turn = threading.Lock()
        self.left: int | None = None  # bytes of replies until it is cut
        self.dead = False
        self.muted = False
        self.halves = 2

    def reset(self) -> None:
        """End it at once, so that both sides hear an error instead of an end."""
        self.dead = True
        for end in (self.client, self.server):
            _reset(end)

    def cut(self) -> None:
        """Take the connection from the client; the server still reads all that was sent, and answers to nobody."""
        self.muted = True
        _reset(self.client)
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_WR)


class Proxy:
    """Listens on a free loopback port for one server.  As a context manager it leaves no thread and no connection.

    Args:
        url: where the server is, with its port.

    Attributes:
        url: the same for whoever is to go through the proxy.
        resets: connections that were reset or cut so far.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.lead_to(url)
        self._listener: socket.socket | None = None
        self._pairs: set[_Pair] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._gate = threading.Condition()
        self._held: set[Way] = set()
        self._closed = False
        self._delay = 0.0
        self._mean: int | None = None
        self._luck = random.Random(0)
        self._cut: tuple[bytes, int] | None = None
        self.resets = 0
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            self.port: int = probe.getsockname()[1]
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        self.url = parts._replace(netloc=f"{user}{_HOST}:{self.port}").geturl()

    def __enter__(self) -> Self:
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.refuse()
        self.kill()
        for pair in tuple(self._pairs):
            for end in (pair.client, pair.server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)  # wakes a thread that sends to nobody
        for thread in tuple(self._threads):
            thread.join(5)

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._pairs)

    # -- faults

    def heal(self) -> None:
        """Let everything pass that is sent from now on, and what a blackhole has held."""
        self._delay, self._mean, self._cut = 0.0, None, None
        with self._lock:
            for pair in self._pairs:
                pair.budget = None
        with self._gate:
            self._held.clear()
            self._gate.notify_all()

    def blackhole(self, *ways: Way) -> None:
        """Hold what is sent these ways (both, unless named); a connection may still be made.

        As on a real network, nothing is missing within a connection that outlives it: what was held is sent then.
        """
        with self._gate:
            self._held.update(ways or _WAYS)

    def delay(self, seconds: float) -> None:
        """Let each piece take so long, either way."""
        self._delay = seconds

    def cut(self, *, after: int = 0, on: bytes = b"") -> None:
        """Once: when a request that holds these bytes was sent, cut its connection after so many bytes of the replies.

        The server has the request and acts on it; only the answer is lost.
        """
        self._cut = (on, after)

    def reset_at_random(self, mean: int, *, seed: int) -> None:
        """Reset each connection after a random number of bytes, `mean` on average, also those that are open now."""
        with self._lock:
            self._luck = random.Random(seed)
            self._mean = mean
            for pair in self._pairs:
                if not pair.dead:
                    pair.budget = self._budget()

    def kill(self) -> None:
        """Reset all connections; new ones are welcome."""
        for pair in tuple(self._pairs):
            self._reset(pair)
        with self._gate:
            self._gate.notify_all()

    def half_close(self, way: Way) -> None:
        """Tell the receivers of this way that nothing more comes; the other way stays open."""
        for pair in tuple(self._pairs):
            with contextlib.suppress(OSError):
                (pair.server if way == "requests" else pair.client).shutdown(socket.SHUT_WR)

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()

    def lead_to(self, url: str) -> None:
        """Lead new connections to another server, as a name does that was given to it; those that are open stay."""
        parts = urlsplit(url)
        assert parts.port is not None, "the URL of a server behind a proxy names its port"
        self._target = (parts.hostname or _HOST, parts.port)

    def accept(self) -> None:
        """Undo `refuse`."""
        if self._listener is None:
            self._listener = socket.create_server((_HOST, self.port), backlog=128)
            self._run(self._accept, self._listener)

    # -- what passes

    def _run(self, work: Callable[..., None], *args: object) -> None:
        def run() -> None:
            try:
                work(*args)
            finally:
                self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="proxy", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _budget(self) -> int | None:
        return None if self._mean is None else 1 + int(self._luck.expovariate(1 / self._mean))

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._run(self._connect, client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target, timeout=10)
        except OSError:
            _reset(client)
            client.close()
            return
        for end in (client, server):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            pair = _Pair(client, server, self._budget())
            self._pairs.add(pair)
        if self._closed:
            pair.reset()
        self._run(self._pump, pair, "replies")
        self._pump(pair, "requests")

    def _pump(self, pair: _Pair, way: Way) -> None:
        source, sink = (pair.client, pair.server) if way == "requests" else (pair.server, pair.client)
        try:
            while data := source.recv(65536):
                if self._delay:
                    time.sleep(self._delay)
                with self._gate:
                    self._gate.wait_for(lambda: pair.dead or way not in self._held)
                if not self._pass(pair, way, data, sink):
                    break
            else:
                if not (pair.muted or pair.dead):
                    sink.shutdown(socket.SHUT_WR)
        except OSError:
            pair.reset()
        finally:
            self._end(pair, way)

    def _pass(self, pair: _Pair, way: Way, data: bytes, sink: socket.socket) -> bool:
        """Send it, or as much of it as is to be sent; whether there may be more."""
        if pair.dead or pair.muted:
            return way == "replies" and not pair.dead
        if pair.budget is not None:
            pair.budget -= len(data)
            if pair.budget <= 0:
                sink.sendall(data[: pair.budget + len(data)])
                self._reset(pair)
                return False
        if way == "requests":
            with pair.turn:  # its answer, which may be cut, waits for the whole of it
                self._look_for_cut(pair, data)
                sink.sendall(data)
            return True
        with pair.turn:
            left = pair.left
        if left is None or len(data) <= left:
            sink.sendall(data)
            if left is not None:
                pair.left = left - len(data)
        else:
            sink.sendall(data[:left])
            self.resets += 1
            pair.cut()
        return True

    def _reset(self, pair: _Pair) -> None:
        with self._lock:  # both ways may come to it at once
            if not pair.dead:
                self.resets += 1
                pair.reset()

    def _look_for_cut(self, pair: _Pair, data: bytes) -> None:
        with self._lock:
            if self._cut is not None:
                on, after = self._cut
                seen = pair.tail + data
                pair.tail = seen[-len(on) :] if on else b""
                if on in seen:
                    self._cut = None
                    pair.left = after

    def _end(self, pair: _Pair, way: Way) -> None:
        with self._lock:
            pair.halves -= 1
            over = pair.halves == 0
            if over:
                self._pairs.discard(pair)
        if over:
            pair.server.close()
        if over or (pair.muted and way == "requests"):
            pair.client.close()


def _reset(end: socket.socket) -> None:
    """Reset a connection: whoever reads from it, in this process too, learns so at once."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD)  # wakes a thread that reads; the reset goes out with the close that follows
