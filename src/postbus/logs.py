"""How a worker's log looks: one line or one JSON object for each record, with nothing in it that steers a terminal."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import ConfigError
from .shown import printable

__all__ = ["FORMATS", "LEVELS", "Logs", "show_crash"]

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error", "critical")

# What postbus puts beside the message of a record.
_EXTRA = ("event_id", "event_name", "subscription", "attempt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """Where the log goes and how it looks.

    Attributes:
        level: the least level that is shown.
        form: 'text' or 'json'.
        config: a JSON or INI file for `logging.config` that says all of it instead.
    """

    level: str = "info"
    form: str = "text"
    config: str | None = None

    def configure(self, hide: Callable[[str], str] = str) -> None:
        """Make it so for this process; `hide` takes secrets out of a line.

        Raises:
            ConfigError: when the file cannot be used.
        """
        if self.config is not None:
            _from_file(self.config)
            return
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Json(hide) if self.form == "json" else _Text(hide))
        logging.basicConfig(level=self.level.upper(), handlers=[handler], force=True)


def show_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For `sys.excepthook`: an error that nobody expected is shown in full, and steers no terminal either."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(printable(text, keep="\n"), end="", file=sys.stderr)  # noqa: T201 - there may be no log


def _from_file(path: str) -> None:
    try:
        if path.endswith(".json"):
            logging.config.dictConfig(json.loads(Path(path).read_text("utf-8")))
        else:
            logging.config.fileConfig(path, disable_existing_loggers=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        raise ConfigError(f"--log-config {path!r} cannot be used: {error}") from error


class _Text(logging.Formatter):
    """`2013-02-08 09:30:00.123 WARNING 4711 postbus: message`."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        super().__init__()
        self._hide = hide

    def format(self, record: logging.LogRecord) -> str:
        at = f"{_time(record):%Y-%m-%d %H:%M:%S}.{record.msecs:03.0f}"
        head = f"{at} {record.levelname} {os.getpid()} {record.name}: "
        lines = [printable(self._hide(line)) for line in _lines(self, record)]
        return head + "\n  ".join(lines)


class _Json(logging.Formatter):
    """One object for each record, with stable keys."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        super().__init__()
        self._hide = hide

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": os.getpid(),
            "message": self._hide(record.getMessage()),
        }
        fields |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        if record.exc_info:
            fields["traceback"] = self._hide(self.formatException(record.exc_info))
        return json.dumps(fields, default=str)


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _lines(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    text = record.getMessage()
    if record.exc_info:
        text = f"{text}\n{formatter.formatException(record.exc_info)}"
    return text.splitlines() or [""]
