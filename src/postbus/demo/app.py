"""The demo's bus, for whoever has `POSTBUS_DEMO` set to a run's folder.

`postbus worker postbus.demo.app:bus` is one more worker of that run.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from .airport import bus_at
from .place import PARENT, VARIABLE, Place

__all__ = ["bus"]

bus = bus_at(Place.load(os.environ.get(VARIABLE)))


def _end_with(parent: int) -> None:
    """Stop this worker when the demo that started it is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


# A worker's own child processes import this module too; they end with the worker.
if os.environ.get(PARENT) == str(os.getppid()):
    threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
