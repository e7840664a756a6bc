"""What a handler or subscriber is told about the event it was given, and the way to publish from inside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from .delivery import Delivery
from .envelope import CAUSATION, CORRELATION, Envelope
from .errors import ConfigError

__all__ = ["Context", "DeliveryContext", "Publishes"]

T = TypeVar("T")


class Publishes(Protocol):
    """What a context publishes with: the bus."""

    @property
    def publish(self) -> Callable[..., Awaitable[Envelope]]:
        """See `Bus.publish`."""
        ...

    @property
    def publish_sync(self) -> Callable[..., Envelope]:
        """See `Bus.publish_sync`."""
        ...


class Context:
    """What a handler may know beside its event.

    Attributes:
        envelope: what is published around the event.
        tx: what was given as `within=`, or a transactional subscriber's transaction; None outside one.
    """

    __slots__ = ("_bus", "envelope", "tx")

    def __init__(self, envelope: Envelope, tx: Any, bus: Publishes) -> None:
        self.envelope = envelope
        self.tx = tx
        self._bus = bus

    @property
    def id(self) -> UUID:
        """The event's id."""
        return self.envelope.id

    @property
    def name(self) -> str:
        """The event's wire name."""
        return self.envelope.name

    @property
    def headers(self) -> Mapping[str, str]:
        """The event's headers, read-only."""
        return self.envelope.headers

    def tx_as(self, kind: type[T]) -> T:
        """Return `tx` as `kind`, for type checkers and for a clear error.

        Raises:
            ConfigError: when there is no transaction, or it is of another type.
        """
        for held in (self.tx, getattr(self.tx, "connection", None)):
            if isinstance(held, kind):
                return held
        found = "no transaction" if self.tx is None else f"a {type(self.tx).__name__}"
        raise ConfigError(
            f"the handler of {self.name} asks for a {kind.__name__}, and runs in {found}: pass it as within="
        )

    async def publish(self, event: object, **options: Any) -> Envelope:
        """Publish as a consequence of this event; options are those of `Bus.publish`.

        Correlation and causation ids are carried on, and the handler's transaction is joined.
        """
        return await self._bus.publish(event, **self._caused(options))

    def publish_sync(self, event: object, **options: Any) -> Envelope:
        """As `publish`, for `def` handlers and subscribers."""
        return self._bus.publish_sync(event, **self._caused(options))

    def _caused(self, options: dict[str, Any]) -> dict[str, Any]:
        own = str(self.envelope.id)
        caused = {CORRELATION: self.envelope.correlation_id or own, CAUSATION: own}
        options["headers"] = {**caused, **(options.get("headers") or {})}
        if self.tx is not None:
            options.setdefault("within", self.tx)
        return options


class DeliveryContext(Context):
    """What a subscriber may know beside its event.

    Attributes:
        delivery: the delivery as it was claimed.
        deadline: when the subscriber's timeout ends, on `time.monotonic()`'s scale.
    """

    __slots__ = ("deadline", "delivery")

    def __init__(self, delivery: Delivery, deadline: float, bus: Publishes, tx: Any = None) -> None:
        super().__init__(delivery.envelope, tx, bus)
        self.delivery = delivery
        self.deadline = deadline

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self.delivery.attempt

    @property
    def subscription(self) -> str:
        """The subscription's name."""
        return self.delivery.subscription

    @property
    def fence(self) -> int:
        """Grows at every claim of this delivery: hand it to systems that must refuse a stale writer."""
        return self.delivery.fence

    @property
    def idempotency_key(self) -> str:
        """The same at every attempt of this delivery, and different for every other."""
        return f"{self.envelope.id}:{self.delivery.subscription}"

    @property
    def published_at(self) -> datetime:
        """When the event was published; aware, UTC."""
        return self.envelope.time
