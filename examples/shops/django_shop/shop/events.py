from dataclasses import dataclass

from postbus import event


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    cents: int


class SoldOut(Exception):
    pass
