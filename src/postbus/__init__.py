"""postbus: the event bus for Python.

Declare a typed event once; react to it in-process, inside the caller's transaction, or in a background worker that
survives crashes, retries, keeps order and never drops an event in silence.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bus import Bus
    from .clock import Clock
    from .codec import Codec
    from .context import Context, DeliveryContext
    from .delivery import DeadLetter, Failure, Reject, Snooze
    from .envelope import Envelope
    from .errors import (
        AccessRefused,
        Closed,
        CodecError,
        ConfigError,
        ForkError,
        InvalidName,
        LeaseLost,
        NotAccepted,
        PostbusError,
        PublishFailed,
        PublishUnknown,
        TooLarge,
        TransportBroken,
        TransportError,
        TransportFull,
        UnknownEvent,
        UnknownSubscription,
    )
    from .event import RawEvent, event
    from .inspection import Health, OutboxStats, Stats
    from .middleware import Next, Publishing, around_delivery, around_publish, around_thread
    from .retry import Retry
    from .router import Handle, Router

__version__ = "0.1.0"

__all__ = [
    "AccessRefused",
    "Bus",
    "Clock",
    "Closed",
    "Codec",
    "CodecError",
    "ConfigError",
    "Context",
    "DeadLetter",
    "DeliveryContext",
    "Envelope",
    "Failure",
    "ForkError",
    "Handle",
    "Health",
    "InvalidName",
    "LeaseLost",
    "Next",
    "NotAccepted",
    "OutboxStats",
    "PostbusError",
    "PublishFailed",
    "PublishUnknown",
    "Publishing",
    "RawEvent",
    "Reject",
    "Retry",
    "Router",
    "Snooze",
    "Stats",
    "TooLarge",
    "TransportBroken",
    "TransportError",
    "TransportFull",
    "UnknownEvent",
    "UnknownSubscription",
    "around_delivery",
    "around_publish",
    "around_thread",
    "event",
]

# Where each public name lives.  They are imported when first asked for, so that `postbus --help`, and the process that
# supervises workers, do not load an event loop they never run.
_ROOMS = MappingProxyType(
    {
        "bus": "Bus",
        "clock": "Clock",
        "codec": "Codec",
        "context": "Context DeliveryContext",
        "delivery": "DeadLetter Failure Reject Snooze",
        "envelope": "Envelope",
        "errors": "AccessRefused Closed CodecError ConfigError ForkError InvalidName LeaseLost NotAccepted "
        "PostbusError PublishFailed PublishUnknown TooLarge TransportBroken TransportError TransportFull UnknownEvent "
        "UnknownSubscription",
        "event": "RawEvent event",
        "inspection": "Health OutboxStats Stats",
        "middleware": "Next Publishing around_delivery around_publish around_thread",
        "retry": "Retry",
        "router": "Handle Router",
    }
)
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}


class _Package(ModuleType):
    """A package whose `event` stays the decorator.

    It is also the name of the module that the decorator lives in, which importing would put in its place.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "event" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

if not TYPE_CHECKING:  # a type checker would take every unknown name for something this returns

    def __getattr__(name: str) -> object:
        if name not in _ROOM_OF:
            raise AttributeError(f"module 'postbus' has no attribute {name!r}")
        value = getattr(import_module(f"postbus.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
