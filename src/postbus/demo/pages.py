"""The dashboard beside a run, and the browser that shows it."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from postbus import Bus
from postbus.dashboard import app
from postbus.dashboard.serving import Serving

__all__ = ["pages_of"]

_PORT = 8088
# What the ledger can account for: a letter that somebody discards would be missing from it.
_ALLOWED = frozenset({"pause", "resume", "replay", "export"})


@asynccontextmanager
async def pages_of(bus: Bus, *, browse: bool) -> AsyncIterator[str]:
    """Serve the dashboard of this bus on this machine, open it if asked to, and return its address."""
    pages = app(bus, authorize=lambda _: _ALLOWED, hosts=frozenset({"localhost"}), target="postbus.demo.app:bus",
                title="New York, February 2013")  # fmt: skip
    serving = Serving(pages, port=_PORT)
    try:
        address = await serving.start()
    except OSError:  # somebody has that port
        serving = Serving(pages, port=0)
        address = await serving.start()
    try:
        if browse and _has_windows():
            webbrowser.open(address)
        yield address
    finally:
        serving.end()
        await serving.ended()


def _has_windows() -> bool:
    """Whether a browser would have a window of its own, and not take this terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
