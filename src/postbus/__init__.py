"""postbus: the event bus for Python.

Declare a typed event once; react to it in-process, inside the caller's transaction, or in a background worker that
survives crashes, retries, keeps order and never drops an event in silence.
"""

from .bus import Bus
from .clock import Clock
from .codec import Codec
from .context import Context, DeliveryContext
from .delivery import DeadLetter, Failure, Reject, Snooze
from .envelope import Envelope
from .errors import (
    Closed,
    CodecError,
    ConfigError,
    ForkError,
    InvalidName,
    LeaseLost,
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
from .inspection import Health, Stats
from .middleware import Next, Publishing, around_delivery, around_publish
from .retry import Retry
from .router import Handle, Router

__version__ = "0.1.0"

__all__ = [
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
    "event",
]
