"""Redis Streams do what the model says, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from postbus.address import Address, Settings
from postbus.testing.clock import ManualClock
from postbus.testing.model import transport_machine
from postbus.transport import Transport
from postbus.transports.redis import connect

FEW = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}


def on(url: str) -> Callable[[ManualClock], Transport]:
    """Each on keys of its own."""
    numbers = count()
    return lambda clock: connect(Address.parse(url), Settings(namespace=f"model-{next(numbers)}", clock=clock))


def test_redis_does_what_the_model_says(redis_url: str) -> None:
    run_state_machine_as_test(
        transport_machine(on(redis_url)),
        settings=settings(max_examples=25, stateful_step_count=40, **FEW),  # type: ignore[arg-type]
    )
