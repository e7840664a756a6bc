from dataclasses import dataclass

from postbus import DeliveryContext, Router, event

router = Router()


@event("payments.payment.received", key="order_id")
@dataclass(frozen=True)
class PaymentReceived:
    order_id: str
    cents: int


@dataclass(frozen=True)
class Order:
    order_id: str
    amount: int


@router.subscriber("orders.order.placed", name="payments")
async def collect(event: Order, context: DeliveryContext) -> None:
    await context.publish(PaymentReceived(event.order_id, event.amount))
