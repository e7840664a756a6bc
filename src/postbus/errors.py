"""Every error a user of postbus can meet.  Leaves to others: what a failed *delivery* means (see delivery.py).

PostbusError
  ConfigError              the program is wrong; raised at start or at registration
    ForkError              a bus opened before a fork was used after it
  InvalidName              a name, topic, key or header that no transport could carry
  UnknownEvent             an object that is not an event, or a name nobody declared
  UnknownSubscription      a subscription that the transport does not hold
  CodecError               a payload that cannot be encoded or decoded
  Closed                   the bus or transport is not open
  TransportError           the server cannot be reached, or answered with an error; trying again may help
    AccessRefused          it does not let this user, password or database in
    TransportBroken        this process cannot go on with it
  PublishFailed            nothing was stored
    NotAccepted            nothing was stored, and publishing the same again would be refused again
    TransportFull          nothing was stored, because there is no room
    TooLarge               nothing was stored, because the event is over the limit
  PublishUnknown           it may have been stored; publishing again with the same id is safe
  LeaseLost                a delivery is no longer this worker's
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "AccessRefused",
    "Closed",
    "CodecError",
    "ConfigError",
    "ForkError",
    "InvalidName",
    "LeaseLost",
    "NotAccepted",
    "PostbusError",
    "PublishFailed",
    "PublishUnknown",
    "TooLarge",
    "TransportBroken",
    "TransportError",
    "TransportFull",
    "UnknownEvent",
    "UnknownSubscription",
]


class PostbusError(Exception):
    """Base of every error that postbus raises on purpose."""


class ConfigError(PostbusError):
    """The program is wrong: the message names the value, what was expected and the next step."""


class ForkError(ConfigError):
    """A bus or transport that was opened before a fork was used in the child."""


class InvalidName(PostbusError, ValueError):
    """A name, topic, key or header that is refused before any I/O."""


class UnknownEvent(PostbusError):
    """An object without `@event(...)`, or a wire name that this program does not know."""


class UnknownSubscription(PostbusError, LookupError):
    """The transport holds no subscription of that name."""


class CodecError(PostbusError, ValueError):
    """A payload that cannot be encoded or decoded; names the event and the field."""


class Closed(PostbusError):
    """The bus or transport is closed, or was never opened."""


class TransportError(PostbusError):
    """The transport's server or file cannot be reached, or refused the request."""


class AccessRefused(TransportError):
    """The server is up, and it or we refuse the user, password, database or certificate: somebody must change that."""


class TransportBroken(TransportError):
    """This process cannot go on with the transport: its file was replaced, or its schema is newer than this program."""


class PublishFailed(PostbusError):
    """The event was not stored, and never will be by this call.

    `results`, when a batch was published, holds one entry per event in the order given: `None` where that event
    was stored, else the error that concerns it.
    """

    def __init__(self, message: str, results: Sequence[PostbusError | None] = ()) -> None:
        super().__init__(message)
        self.results = tuple(results)


class NotAccepted(PublishFailed):
    """Nothing was stored, for a reason that waiting does not mend.

    No subscription takes the event though one is required, or the store cannot hold what it says.
    """


class TransportFull(PublishFailed):
    """Nothing was stored: the transport's bound is reached.  Try later, or let workers drain it."""


class TooLarge(PublishFailed):
    """Nothing was stored: the sealed event is larger than `max_size`."""


class PublishUnknown(PostbusError):
    """The event may or may not have been stored.  Publishing again with the same id stores it once.

    `results` is as in `PublishFailed`.
    """

    def __init__(self, message: str, results: Sequence[PostbusError | None] = ()) -> None:
        super().__init__(message)
        self.results = tuple(results)


class LeaseLost(PostbusError):
    """The delivery's lease ended, and another worker may own it now."""
