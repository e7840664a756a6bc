from dataclasses import dataclass

from postbus import DeliveryContext, RawEvent, Router, event

router = Router()


@event("payments.payment.received", key="order_id")
@dataclass(frozen=True)
class PaymentReceived:
    order_id: str
    cents: int


@router.subscriber("orders.order.placed", name="payments")
async def collect(event: RawEvent, context: DeliveryContext) -> None:
    order = event.decode(Order)
    await context.publish(PaymentReceived(order.order_id, order.amount))


@dataclass(frozen=True)
class Order:
    order_id: str
    amount: int
