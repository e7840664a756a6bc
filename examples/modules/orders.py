from dataclasses import dataclass

from postbus import Router, event

router = Router()


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int


@dataclass(frozen=True)
class Payment:
    """What this module needs to know of somebody else's event: a class of its own, without a mark."""

    order_id: str


@router.on("payments.payment.received")
def confirm(event: Payment) -> None:
    print(f"order {event.order_id} is paid")
