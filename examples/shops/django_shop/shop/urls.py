from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import path

from .bus import bus
from .events import OrderPlaced, SoldOut
from .models import Order


def place_order(request: HttpRequest, order_id: str, cents: int) -> HttpResponse:
    try:
        with transaction.atomic():
            Order.objects.create(id=order_id, cents=cents)
            bus.publish_sync(OrderPlaced(order_id, cents), within="default")
    except SoldOut:
        return HttpResponse(f"{order_id} is sold out", status=409)
    return HttpResponse(order_id, status=201)


def show_order(request: HttpRequest, order_id: str) -> JsonResponse:
    order = get_object_or_404(Order, id=order_id)
    return JsonResponse({"cents": order.cents, "invoices": order.invoices})


urlpatterns = [
    path("orders/<str:order_id>/<int:cents>", place_order),
    path("orders/<str:order_id>", show_order),
    path("admin/", admin.site.urls),
]
