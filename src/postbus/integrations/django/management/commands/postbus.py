"""`manage.py postbus ...`: every command of `postbus`, for the bus of this project."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from postbus.cli import run

__all__ = ["Command"]


class Command(BaseCommand):
    """Hands its arguments on."""

    help = "The event bus: workers, dead letters, and so on.  `manage.py postbus --help` lists its commands."
    requires_system_checks: list[str] = []  # noqa: RUF012 - as Django declares it

    def run_from_argv(self, argv: list[str]) -> None:
        """Everything behind `postbus` is ours, options too."""
        sys.exit(_run(argv[2:]))

    def add_arguments(self, parser: CommandParser) -> None:
        """For `call_command("postbus", "status")`."""
        parser.add_argument("words", nargs=argparse.REMAINDER)

    def handle(self, *_: Any, **options: Any) -> None:
        """As on the command line; what would be an exit code is an error."""
        if code := _run([str(word) for word in options["words"]]):
            raise CommandError(f"postbus {' '.join(options['words'])} ended with exit code {code}", returncode=code)


def _run(words: list[str]) -> int:
    os.environ.setdefault("POSTBUS_APP", "postbus.integrations.django.entry:bus")
    connections.close_all()  # a worker's processes must not share those of this one
    return run(words)
