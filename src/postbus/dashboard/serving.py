"""Serves the dashboard by itself, on one address: for the command line, the demo and tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Serving"]

# Streams of pages that are open do not end by themselves.
_GRACE = 1


class Serving:
    """One server in this event loop.

    Args:
        app: what is served.
        host: the address; of this machine only by default.
        port: 0 takes a free one.
        root_path: where a proxy has put it.
    """

    def __init__(self, app: ASGIApp, *, host: str = "127.0.0.1", port: int = 8088, root_path: str = "") -> None:
        self._ending = asyncio.Event()
        config = uvicorn.Config(
            self._until_the_end(app),
            host=host,
            port=port,
            root_path=root_path.rstrip("/"),
            log_level="warning",
            access_log=False,
            server_header=False,
            # Whoever claims to come from somewhere else is not believed.
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE,
        )
        self._host, self._port = host, port
        self._server = _Quiet(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen; return the address to open.

        Raises:
            OSError: when the address cannot be had.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.create_server((self._host, self._port), family=family, backlog=256)
        port = listening.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve([listening]), name="postbus-dashboard-server")
        # To an address of all interfaces nobody can go.
        named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104 - not bound to, but named
        return f"http://[{named}]:{port}/" if ":" in named else f"http://{named}:{port}/"

    async def ended(self) -> None:
        """Wait until it has ended."""
        if self._task is not None:
            await self._task

    def end(self) -> None:
        """End it; streams that are open end at once."""
        self._ending.set()
        self._server.should_exit = True

    def _until_the_end(self, app: ASGIApp) -> ASGIApp:
        """The same, which at the end hears that its readers have gone: a stream waits for nothing else."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            async def heard() -> Message:
                told, ended = asyncio.ensure_future(receive()), asyncio.ensure_future(self._ending.wait())
                try:
                    await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
                    return told.result() if told.done() else {"type": "http.disconnect"}
                finally:
                    told.cancel()
                    ended.cancel()

            await app(scope, heard, send)

        return serve


class _Quiet(uvicorn.Server):
    """Leaves signals to the program around it, which says how it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
