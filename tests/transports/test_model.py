"""Transports behave as a model of a few lines says, whatever happens in whatever order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from postbus.address import Address, Settings
from postbus.testing import ManualClock
from postbus.testing.model import transport_machine
from postbus.transport import Transport
from postbus.transports.memory import connect as memory
from postbus.transports.sqlite import connect as sqlite

FEW = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}


def in_memory(_: Path) -> Callable[[ManualClock], Transport]:
    return lambda clock: memory(Address.parse("memory://"), Settings(clock=clock))


def in_files(folder: Path) -> Callable[[ManualClock], Transport]:
    numbers = count()
    return lambda clock: sqlite(
        Address.parse(f"sqlite:///{folder}/{next(numbers)}.db?durability=os"), Settings(clock=clock)
    )


@pytest.mark.parametrize(("makes", "examples"), [(in_memory, 200), (in_files, 25)], ids=["memory", "sqlite"])
def test_a_transport_does_what_the_model_says(
    makes: Callable[[Path], Callable[[ManualClock], Transport]], examples: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_state_machine_as_test(
            transport_machine(makes(Path(folder))),
            settings=settings(max_examples=examples, stateful_step_count=40, **FEW),  # type: ignore[arg-type]
        )
