from dataclasses import dataclass

from postbus import Context, Router, event

router = Router()


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int


@router.on("payments.payment.received")
async def confirm(event: "PaymentSeen", context: Context) -> None:
    print(f"order {event.order_id} is paid")


@dataclass(frozen=True)
class PaymentSeen:
    """What this module needs to know of a payment: its own class for somebody else's event."""

    order_id: str
