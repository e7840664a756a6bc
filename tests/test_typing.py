"""The public API says the same to both type checkers that its users run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = "tests/typing/api.py"


def check(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command, PROGRAM], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_every_error_and_no_other(tmp_path: Path) -> None:
    check("mypy", "--cache-dir", str(tmp_path))


def test_pyright_finds_every_error_and_no_other() -> None:
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed: it comes with the lint group")
    check("basedpyright", "--pythonpath", sys.executable)
