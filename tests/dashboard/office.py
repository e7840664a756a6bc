"""A bus with all that a dashboard may have to show, its worker, and the dashboard itself, in one event loop."""

from __future__ import annotations

import asyncio
import http.client
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID, uuid4

from starlette.applications import Starlette
from starlette.routing import Mount

from postbus import Bus, Context, Retry, event
from postbus.dashboard import app
from postbus.dashboard.serving import Serving

__all__ = ["HOSTILE", "Answer", "Office", "OrderPaid", "OrderPlaced", "ask", "bus_at", "office_at", "until"]

# What would run a script, close a tag or turn the direction of writing, if anybody let it.
HOSTILE = "\"><img src=x onerror='window.hit=1'><script>window.hit=1</script>{{7*7}}\u202e"


@event("orders.order.placed", key="order_id")
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    amount: int = 9_007_199_254_740_993  # more than a browser's numbers can hold
    note: str = ""
    password: str = "hunter2"


@event("orders.order.paid", key="order_id")
@dataclass(frozen=True)
class OrderPaid:
    order_id: str


def bus_at(url: str, outbox: str | None = None, **settings: Any) -> Bus:
    """A bus of a new namespace, where the note of an order says what becomes of it."""
    bus = Bus(url, namespace=f"dash{uuid4().hex[:8]}", retain=600, outbox=outbox, **settings)

    @bus.subscriber(OrderPlaced, name="receipts", retry=Retry(attempts=2, delay=0.01, jitter=0))
    async def send_receipt(event: OrderPlaced, context: Context) -> None:
        if event.note.startswith("fail"):
            raise ConnectionError(f"smtp-{event.amount % 7} refused {event.order_id!r}: {event.note}")
        await context.publish(OrderPaid(event.order_id))

    @bus.subscriber(OrderPlaced, name="billing", retry=Retry(attempts=5, delay=600, jitter=0))
    async def bill(event: OrderPlaced) -> None:
        if event.note == "later":
            raise TimeoutError("the bank is closed")

    @bus.subscriber(OrderPaid, name="ledger", ordered=True)
    async def enter(event: OrderPaid) -> None:
        """Done."""

    return bus


@dataclass(frozen=True, slots=True)
class Office:
    """What a test needs.

    Attributes:
        bus: the bus, open, with a worker.
        url: the dashboard's address, without a slash at its end.
    """

    bus: Bus
    url: str

    async def bury(self, count: int, note: str = "fail") -> list[UUID]:
        """Publish so many orders that end as dead letters of `receipts`; return the letters' ids."""
        before = {letter.id async for letter in self.bus.dead.each("receipts")}
        for number in range(count):
            await self.bus.publish(OrderPlaced(f"{uuid4().hex[:6]}-{number}", note=note))

        async def buried() -> list[UUID]:
            found = [letter.id async for letter in self.bus.dead.each("receipts")]
            return [id_ for id_ in found if id_ not in before]

        await until(lambda: _has(buried, count))
        return await buried()

    async def dead(self) -> int:
        """How many dead letters `receipts` has."""
        return (await self.bus.stats())["receipts"].dead


async def _has(found: Callable[[], Awaitable[list[UUID]]], count: int) -> bool:
    return len(await found()) == count


@asynccontextmanager
async def office_at(
    url: str,
    *,
    prefix: str = "",
    work: bool = True,
    outbox: str | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    **options: Any,
) -> AsyncIterator[Office]:
    """Open a bus, run its subscribers and serve its dashboard, under `prefix` of another application if given."""
    bus = bus_at(url, outbox, **settings)
    pages = app(bus, target="shop:bus", title="the shop", **options)
    serving = Serving(Starlette(routes=[Mount(prefix, pages)]) if prefix else pages, port=0)
    async with bus:
        address = (await serving.start()).rstrip("/")
        try:
            if work:
                async with bus.worker():
                    yield Office(bus, address + prefix)
            else:
                yield Office(bus, address + prefix)
        finally:
            serving.end()
            await serving.ended()
            for info in await bus.subscriptions.list():
                await bus.subscriptions.retire(info.name)


async def until(true: Callable[[], Awaitable[bool]], within: float = 60.0) -> None:
    """Wait for it."""
    async with asyncio.timeout(within):
        while not await true():  # noqa: ASYNC110 - it is asked of a server, which sets no event of ours
            await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    text: str


async def ask(
    office: Office | str,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, Any] | None = None,
) -> Answer:
    """Ask as no browser would, with whatever headers; a form is sent as a page of the dashboard sends it.

    What is still under way is asked for until it has ended, as that page does.
    """
    url = urlsplit((office if isinstance(office, str) else office.url) + path)
    given = {"Host": url.netloc}
    body = None
    if form is not None:
        method, body = "POST", urlencode(form, doseq=True)
        given |= {"Content-Type": "application/x-www-form-urlencoded", "X-Postbus": "1"}
    sent = {name: value for name, value in (given | dict(headers or {})).items() if value}

    def talk() -> Answer:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
        try:
            connection.putrequest(method, f"{url.path}?{url.query}" if url.query else url.path, skip_host=True)
            for name, value in {**sent, **({"Content-Length": str(len(body))} if body is not None else {})}.items():
                connection.putheader(name, value)
            connection.endheaders(body.encode() if body is not None else None)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())
        finally:
            connection.close()

    answer = await asyncio.to_thread(talk)
    while running := re.search(r'id="task" hx-get="([^"]+)"', answer.text):
        await asyncio.sleep(0.1)
        answer = await ask(f"{url.scheme}://{url.netloc}", running[1], headers=headers)
    return answer
