import asyncio

import pytest
import shop
from shop import OrderPlaced

from postbus import Bus


def test_an_order_gets_a_receipt(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        bus = Bus("memory://?codec=msgpack")  # no file, no server, and the same bytes as in production
        bus.include(shop.bus)  # all that the program declares, on a bus of the test's own
        async with bus:
            await bus.publish(OrderPlaced("o-1", 4200))
            await bus.drain()  # runs every subscriber here, until nothing is left to do

    asyncio.run(scenario())
    assert "receipt for o-1: 42.00 EUR" in capsys.readouterr().out
