"""The public API says the same to both type checkers that its users run."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import postbus
from postbus import PostbusError

ROOT = Path(__file__).parents[1]
PROGRAM = "tests/typing/api.py"


def test_every_public_name_is_used_in_the_program_that_is_checked() -> None:
    """Errors are all alike: the two that carry results stand for them."""
    program = ast.parse((ROOT / PROGRAM).read_text("utf-8"))
    used = {node.id for node in ast.walk(program) if isinstance(node, ast.Name)}
    public = {name: getattr(postbus, name) for name in postbus.__all__}
    errors = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, PostbusError)}
    assert public.keys() - errors - used == set()


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
