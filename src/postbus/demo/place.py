"""Where one run of the demo lives: its folder, its bus, and the port of its outside services."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import msgspec

from postbus import ConfigError

__all__ = ["PARENT", "VARIABLE", "Place"]

VARIABLE = "POSTBUS_DEMO"  # the folder of a run
PARENT = "POSTBUS_DEMO_PARENT"  # the process whose end ends the workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What every process of a run must know.

    Attributes:
        folder: holds the board, the records, the logs, and `bus.db` unless another URL was given.
        url: the transport's.
        namespace: keeps two runs on one server apart.
        port: of the outside services, on loopback.
        lease: seconds, short enough that a take-over can be watched.
    """

    folder: Path
    url: str
    namespace: str
    port: int = 0
    lease: float = 3.0

    @property
    def records(self) -> Path:
        """Where each worker process keeps a file of what it did."""
        return self.folder / "records"

    @property
    def board(self) -> Path:
        """The departure board's database: the bus's own file where it has one, so that both share a transaction."""
        if self.url.startswith("sqlite:"):
            return Path(unquote(self.url.partition("?")[0].removeprefix("sqlite:///")))
        return self.folder / "board.db"

    @property
    def enlists(self) -> bool:
        """Whether the board and the bus share a database, and so a transaction."""
        return self.url.startswith("sqlite:")

    def save(self) -> None:
        """Write it down for the other processes."""
        self.records.mkdir(parents=True, exist_ok=True)
        (self.folder / "place.json").write_bytes(msgspec.json.encode(self, enc_hook=str))

    @classmethod
    def load(cls, folder: str | None) -> Place:
        """Read what `save` wrote.

        Raises:
            ConfigError: when the folder is not one of a demo.
        """
        if not folder:
            raise ConfigError(
                f"{VARIABLE} is not set: expected the folder of a running demo, as `postbus demo` prints it"
            )
        try:
            content = (Path(folder) / "place.json").read_bytes()
        except FileNotFoundError as error:
            raise ConfigError(
                f"{VARIABLE}={folder} holds no running demo: start one with `postbus demo --keep`"
            ) from error
        return msgspec.json.decode(content, type=cls, dec_hook=lambda _, text: Path(text))
