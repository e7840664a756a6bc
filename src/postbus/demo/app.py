"""The demo's bus, for whoever has `POSTBUS_DEMO` set to a run's folder.

`postbus worker postbus.demo.app:bus` is one more worker of that run.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from .airport import bus_at
from .crew import alive
from .place import PARENT, VARIABLE, Place

__all__ = ["bus"]

bus = bus_at(Place.load(os.environ.get(VARIABLE)))


def _end_with(demo: int) -> None:
    """End the supervisor of this worker when the demo that started it is gone, however it went."""
    while alive(demo):
        time.sleep(1)
    os.kill(os.getppid(), signal.SIGTERM)


if PARENT in os.environ:
    threading.Thread(target=_end_with, args=(int(os.environ[PARENT]),), name="demo", daemon=True).start()
