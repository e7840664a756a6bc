import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
import shop
from shop import OrderPlaced

from postbus import Bus, Context, RawEvent, Retry
from postbus.testing import ManualClock


@pytest_asyncio.fixture
async def bus() -> AsyncIterator[Bus]:
    bus = Bus("memory://?codec=msgpack")
    bus.include(shop.bus)
    async with bus:
        yield bus


# --8<-- [start:dead]
async def test_a_refused_receipt_is_kept_with_its_reason(bus: Bus) -> None:
    @bus.subscriber(OrderPlaced, name="refuser", retry=Retry(attempts=2, delay=0.01))
    async def refuse(event: OrderPlaced) -> None:
        raise ConnectionError("no mail server")

    await bus.publish(OrderPlaced("o-1", 4200))
    await bus.drain()
    (letter,) = await bus.dead.list("refuser")
    assert (letter.reason, letter.attempts) == ("attempts spent", 2)
    assert "no mail server" in letter.error
    assert (await bus.stats())["send_receipt"].dead == 0


# --8<-- [end:dead]


# --8<-- [start:clock]
async def test_the_reminder_comes_after_two_weeks() -> None:
    reminded: list[str] = []
    clock = ManualClock()
    bus = Bus("memory://?codec=msgpack", clock=clock)

    @bus.subscriber(OrderPlaced)
    async def remind(event: OrderPlaced) -> None:
        reminded.append(event.order_id)

    async with bus:
        await bus.publish(OrderPlaced("o-1", 4200), delay=timedelta(days=14))
        await bus.drain()
        assert reminded == []
        clock.advance(14 * 86_400)
        await bus.drain()
        assert reminded == ["o-1"]


# --8<-- [end:clock]


# --8<-- [start:call]
def test_stock_is_reserved(capsys: pytest.CaptureFixture[str]) -> None:
    shop.bus.call_sync(OrderPlaced("o-1", 4200))
    assert capsys.readouterr().out == "reserved stock for o-1\n"


# --8<-- [end:call]


# --8<-- [start:transaction]
async def test_nothing_is_sent_when_the_order_is_rolled_back(tmp_path: Path) -> None:
    bus = Bus(f"sqlite:///{tmp_path}/shop.db")
    bus.include(shop.bus)

    @bus.on(OrderPlaced)
    def refuse(event: OrderPlaced, context: Context) -> None:
        context.tx_as(sqlite3.Connection).execute("CREATE TABLE orders (id TEXT)")
        raise LookupError("sold out")

    database = sqlite3.connect(tmp_path / "shop.db")
    async with bus:
        with pytest.raises(LookupError):
            async with bus.transaction(database) as tx:
                await bus.publish(OrderPlaced("o-1", 4200), within=tx)
        assert (await bus.stats()).backlog == 0
    assert database.execute("SELECT name FROM sqlite_master WHERE name = 'orders'").fetchall() == []
    database.close()


# --8<-- [end:transaction]


# --8<-- [start:recorder]
async def test_an_order_is_all_that_is_published(bus: Bus) -> None:
    published: list[RawEvent] = []
    bus.add_subscriber(published.append, ">", name="recorder")
    await bus.publish(OrderPlaced("o-1", 4200))
    await bus.drain()
    assert [(event.name, event.key) for event in published] == [("orders.order.placed", "o-1")]


# --8<-- [end:recorder]
