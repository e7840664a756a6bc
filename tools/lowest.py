"""Prints the oldest versions that pyproject.toml promises to work with, as constraints for pip: see `make LOWEST=1`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def main() -> None:
    """One line for each dependency of the core."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in project["dependencies"]:
        print(re.sub(r"^([\w-]+)>=([\w.]+)", r"\1==\2", requirement))


if __name__ == "__main__":
    main()
