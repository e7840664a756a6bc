"""What the documentation shows works: each example runs in an empty folder and prints what it says it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
OUTPUT = re.compile(r"^# Output:\n(?P<lines>(?:^#.*\n)*)\Z", re.MULTILINE)
PROGRAMS = sorted(path for path in EXAMPLES.rglob("*.py") if OUTPUT.search(path.read_text("utf-8")))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(EXAMPLES).with_suffix("").parts)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POSTBUS_")}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("path", PROGRAMS, ids=module_of)
def test_an_example_prints_what_it_says(path: Path, tmp_path: Path) -> None:
    found = OUTPUT.search(path.read_text("utf-8"))
    assert found is not None
    expected = re.sub(r"^# ?", "", found["lines"], flags=re.MULTILINE)

    ended = run(tmp_path, "-m", module_of(path))

    assert (ended.stdout, ended.stderr, ended.returncode) == (expected, "", 0)


def test_every_example_is_run_imported_or_a_test() -> None:
    """The shops are run by integrations/test_shops.py."""
    texts = {path: path.read_text("utf-8") for path in EXAMPLES.rglob("*.py") if "shops" not in path.parts}
    program_texts = "\n".join(texts[path] for path in PROGRAMS)
    idle = [
        module_of(path)
        for path, text in texts.items()
        if text and path not in PROGRAMS and not path.name.startswith("test_") and path.stem not in program_texts
    ]
    assert idle == []


def test_the_tests_among_the_examples_pass(tmp_path: Path) -> None:
    for path in EXAMPLES.glob("test_*.py"):
        (tmp_path / path.name).write_text(path.read_text("utf-8"), "utf-8")
    settings = ("-oasyncio_mode=auto", "-oasyncio_default_fixture_loop_scope=function")
    # Of the transport suite, a few: tests/transports runs it as a whole.
    chosen = ("-k", "not TestShelf or finished")
    ended = run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *settings, *chosen)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_worker_handles_what_the_program_published_before_it_started(tmp_path: Path) -> None:
    assert run(tmp_path, "-m", "shop").returncode == 0

    worker = run(tmp_path, "-m", "postbus", "worker", "shop:bus", "--burst")

    assert worker.stdout == "receipt for o-1: 42.00 EUR\n", worker.stderr
    assert worker.returncode == 0
