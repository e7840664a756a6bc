"""FAULTS 16 and 21: a process that dies at any step of a transaction leaves all of it, or nothing."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

HERE = Path(__file__).parent


async def crash(what: str, kind: str, database: str, transport: str) -> list[dict[str, Any]]:
    """Run the crasher; what was left after each step."""
    namespace = f"t{uuid4().hex[:12]}"
    with psycopg.connect(database) as connection:
        connection.execute(f"CREATE TABLE {namespace}_bill (name text)")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(HERE / "crasher.py"), what, kind, database, transport, namespace,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent, *sys.path[1:])))},
    )  # fmt: skip
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("kind", ["psycopg", "session"])
async def test_a_crash_at_any_step_of_a_publish_keeps_order_and_event_together(kind: str, postgres_url: str) -> None:
    steps = await crash("publish", kind, postgres_url, postgres_url)
    assert [len(step["rows"]) for step in steps] == [step["backlog"] for step in steps]
    assert [step["code"] for step in steps] == [9] * (len(steps) - 1) + [0]
    assert steps[0]["rows"] == []
    assert len(steps[-1]["rows"]) >= 1
    assert len(steps) >= 5, "the crashes were spread over the transaction's statements"


@pytest.mark.parametrize(
    ("kind", "near"),
    [
        ("own", True),
        ("session", False),
        pytest.param("psycopg", True, marks=pytest.mark.soak),
        pytest.param("session", True, marks=pytest.mark.soak),
        pytest.param("psycopg", False, marks=pytest.mark.soak),
    ],
)
async def test_a_crash_at_any_step_of_a_reaction_leaves_one_effect_in_the_end(
    kind: str, near: bool, postgres_url: str, request: pytest.FixtureRequest
) -> None:
    transport = postgres_url if near else request.getfixturevalue("redis_url")
    *steps, end = await crash("react", kind, postgres_url, transport)
    assert [step["code"] for step in steps] == [9] * (len(steps) - 1) + [0]
    assert len(steps) >= 4, "the crashes were spread over the transaction's statements"
    names = [f"{step['step']:03}" for step in steps]
    assert end == {"rows": names, "backlog": 0}
