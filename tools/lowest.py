"""Prints the oldest versions that pyproject.toml promises to work with, as constraints for pip: see `make LOWEST=1`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

EXTRAS = ("redis", "postgres", "cli", "uvloop")


def main() -> None:
    """One line for each dependency of the core, and of the extras whose code is there."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = [requirement for extra in EXTRAS for requirement in project["optional-dependencies"][extra]]
    for requirement in (*project["dependencies"], *extras):
        print(re.sub(r"^([\w-]+)(?:\[\w+\])?>=([\w.]+)", r"\1==\2", requirement))


if __name__ == "__main__":
    main()
