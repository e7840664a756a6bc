"""The run's handle on the outside services: starts their process, gives it orders, and reads its record at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO, cast
from uuid import UUID

from .crew import program_environment

__all__ = ["Outside"]


class Outside:
    """The services' process.  It ends with its input, so it cannot outlive the demo."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._record = folder / "services.log"
        self._process = subprocess.Popen(
            (sys.executable, "-m", "postbus.demo.office", str(folder), str(seed)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=program_environment(folder),
            start_new_session=True,
        )
        self._orders = cast(IO[bytes], self._process.stdin)  # both are pipes, as asked for
        self._answers = cast(IO[bytes], self._process.stdout)
        self.trouble: dict[str, str] = {"refunds": "rejects some"}

    def port(self) -> int:
        """Where it listens; waits until it does.

        Raises:
            ChildProcessError: when it ended instead.
        """
        line = self._answers.readline()
        if not line:
            raise ChildProcessError(f"the outside services ended with {self._process.wait()} before they listened")
        return int(line)

    def tell(self, verb: str, desk: str) -> None:
        """Take a desk 'down', bring it 'up', or 'fix' its fault."""
        self._orders.write(f"{verb} {desk}\n".encode())
        self._orders.flush()
        if verb == "down":
            self.trouble[desk] = "down"
        else:
            self.trouble.pop(desk, None)

    def served(self) -> list[tuple[str, UUID, str]]:
        """What the desks did: desk, event, and 'done' or 'repeat'."""
        found = []
        if self._record.exists():
            for line in self._record.read_text().splitlines():
                desk, key, says = line.split()
                if says in ("done", "repeat"):
                    found.append((desk, UUID(key.partition(":")[0]), says))
        return found

    def stop(self) -> None:
        """End it; idempotent."""
        self._orders.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
