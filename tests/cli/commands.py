"""Runs `postbus` commands in this process, on the program in deeds.py."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from postbus.cli import run
from running import DEEDS

__all__ = ["APP", "Result", "postbus", "quiet_root"]

# The program as arguments: a factory, so that each command reads the environment of its test.
APP = ("--app-dir", str(DEEDS), "--factory", "deeds:make")


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one line of JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its lines of JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


def postbus(*arguments: str) -> Result:
    """Run one command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), quiet_root():
        code = run(arguments)
    return Result(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def quiet_root() -> Iterator[None]:
    """Give the root logger back as it was: commands send it to stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
