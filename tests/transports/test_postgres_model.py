"""PostgreSQL does what the model says, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from postgres_hand import on_database, with_hand

from postbus.address import Address, Settings
from postbus.delivery import Ack
from postbus.envelope import Envelope, new_id
from postbus.errors import LeaseLost
from postbus.testing.clock import ManualClock
from postbus.testing.model import transport_machine
from postbus.transport import Outgoing, SubscriptionSpec, Transport
from postbus.transports.postgres import connect

FEW = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}


@pytest.fixture
def by_hand(postgres_url: str) -> Iterator[Callable[[ManualClock], Transport]]:
    """Makes transports, each in a schema of its own, to which it is as late as the clock says."""
    numbers = count()
    with with_hand(postgres_url) as hand:
        url = on_database(postgres_url, hand.database)

        def make(clock: ManualClock) -> Transport:
            hand.follow(clock)
            # An answer that comes late, on a machine that is busy, is another story than the one that is told here.
            return connect(
                Address.parse(f"{url}?timeout=60"), Settings(namespace=f"model-{next(numbers)}", clock=clock)
            )

        yield make


@pytest.mark.timeout(180)
def test_postgres_does_what_the_model_says(by_hand: Callable[[ManualClock], Transport]) -> None:
    run_state_machine_as_test(
        transport_machine(by_hand),
        settings=settings(max_examples=25, stateful_step_count=40, **FEW),  # type: ignore[arg-type]
    )


async def test_a_lease_that_ended_by_that_clock_is_noticed_by_the_next_claim(
    by_hand: Callable[[ManualClock], Transport],
) -> None:
    clock = ManualClock()
    transport = by_hand(clock)
    await transport.open()
    await transport.declare([SubscriptionSpec(name="receipts", wants=("a.>",))])
    await transport.append([Outgoing(Envelope(new_id(), "a.b", "a", None, 0, 1, "application/json", b"{}"))])
    (delivery,) = (await transport.claim("receipts", owner="frozen", limit=9, lease=10)).deliveries
    clock.advance(11)
    assert (await transport.claim("receipts", owner="next", limit=9, lease=10)).suspects
    (settled,) = await transport.settle([(delivery, Ack())])
    assert isinstance(settled, LeaseLost)
    await transport.close()
