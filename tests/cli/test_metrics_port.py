"""`postbus worker --metrics-port`: one place for the figures of all processes, also of those that are gone."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deeds import Deed, make
from running import Running, Shop

RAN = "postbus_deliveries_total", {"subscription": "work", "outcome": "ok"}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop(tmp_path)
    for name, value in shop.env.items():
        monkeypatch.setenv(name, value)
    return shop


def publish(*numbers: int) -> None:
    async def run() -> None:
        async with make() as bus:
            await bus.publish_many([Deed(number) for number in numbers])

    asyncio.run(run())


def shown(worker: Running, name: str, labels: dict[str, str]) -> float:
    """The sum of a metric's samples that have these labels."""
    worker.says("metrics at http://")
    url = worker.said().partition("metrics at ")[2].split()[0]
    with urlopen(url, timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_the_figures_of_all_processes_are_in_one_place_and_outlive_them(shop: Shop) -> None:
    with shop.start("worker", "deeds:bus", "-w", "2", "--metrics-port", "0", "--health-port", "0") as worker:
        worker.is_ready(2)
        publish(*range(40))
        shop.until(lambda: shown(worker, *RAN) == 40)
        assert shown(worker, "postbus_workers", {"subscription": "work"}) == 2
        assert shown(worker, "postbus_up", {}) == 1
        os.kill(worker.workers()[0], signal.SIGKILL)
        worker.is_ready(3)
        publish(*range(40, 50))
        shop.until(lambda: shown(worker, *RAN) == 50)
        health = worker.said().partition("health at ")[2].split("/livez")[0]
        with urlopen(f"{health}/livez", timeout=10) as answer:
            assert b"figures" not in answer.read()
        worker.tell(signal.SIGTERM)
        assert worker.ends() == 0


def test_a_port_that_is_taken_is_named(shop: Shop) -> None:
    with shop.start("worker", "deeds:bus", "--metrics-port", "0") as worker:
        worker.says("metrics at http://")
        port = worker.said().partition("metrics at http://127.0.0.1:")[2].partition("/")[0]
        second = shop.run("worker", "deeds:bus", "--metrics-port", port)
    assert second.returncode == 3
    assert f"--metrics-port {port} on 127.0.0.1 cannot be had" in second.stderr
