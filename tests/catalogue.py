"""A program whose declarations and source the catalogue reads; nobody runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated
from uuid import UUID

import msgspec
import pydantic

from postbus import Bus, Context, RawEvent, event


class Kind(Enum):
    GIFT = "gift"
    SALE = "sale"


@dataclass(frozen=True)
class Item:
    sku: str
    amount: Decimal
    parts: list[Item] = field(default_factory=list)


@event("orders.order.placed", key="order_id", version=2)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: UUID
    placed_at: Annotated[datetime, msgspec.Meta(tz=True)]
    items: list[Item]
    kind: Kind = Kind.SALE
    note: str | None = None


@event("orders.order.paid")
class OrderPaid(msgspec.Struct):
    order_id: UUID
    cents: Annotated[int, msgspec.Meta(ge=0)]


@event("users.user.renamed")
class UserRenamed(pydantic.BaseModel):
    user_id: int
    name: str = pydantic.Field(alias="userName", max_length=100)


bus = Bus("memory://")


@bus.on(OrderPlaced)
def reserve(placed: OrderPlaced) -> None: ...


@bus.subscriber(OrderPlaced, OrderPaid, name="receipts")
async def receipts(event: OrderPlaced | OrderPaid, context: Context) -> None:
    renamed = UserRenamed(user_id=1, userName="x")
    await context.publish(renamed)


@bus.subscriber("orders.>", "audit.entry.written", name="audit")
async def audit(event: RawEvent) -> None: ...


@bus.subscriber(UserRenamed, name="search")
async def index(event: UserRenamed) -> None: ...


class Shop:
    async def pay(self, order_id: UUID) -> None:
        await bus.publish_many([OrderPaid(order_id, 100), RawEvent("audit.entry.written", {})])


async def place(order_id: UUID, now: datetime) -> None:
    async def later() -> None:
        await bus.publish(OrderPlaced(order_id, now, []))

    await later()
