"""Found and imported when Django starts, as in every installed application."""

from django.db.models import F

from postbus import Retry

from .bus import bus
from .events import OrderPlaced, SoldOut
from .models import Order


@bus.on(OrderPlaced)  # part of publish(), in the caller's transaction: an error here takes the order back
def reserve_stock(event: OrderPlaced) -> None:
    if event.order_id.startswith("sold-out"):
        raise SoldOut(event.order_id)


@bus.subscriber(OrderPlaced, transactional=True)  # in a worker; its changes and "done" are one commit
def write_invoice(event: OrderPlaced) -> None:
    Order.objects.filter(id=event.order_id).update(invoices=F("invoices") + 1)


@bus.subscriber(OrderPlaced, retry=Retry(attempts=1))
def pack(event: OrderPlaced) -> None:
    if event.cents <= 0:
        raise ValueError(f"{event.order_id} costs nothing")
