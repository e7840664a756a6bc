"""Tells when Python files change: by watchfiles where it is installed, else by looking."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["watch"]

_LOOK = 0.5
_SKIP = frozenset({"__pycache__", "node_modules", "site-packages"})


def watch(directories: Sequence[str], changed: Callable[[], None]) -> None:
    """Call `changed` from a daemon thread whenever a Python file below `directories` changes."""
    fast = _watchfiles()
    target = _looking if fast is None else _told
    threading.Thread(target=target, args=[directories, changed, fast], name="postbus-reload", daemon=True).start()


def _watchfiles() -> ModuleType | None:
    try:
        return importlib.import_module("watchfiles")
    except ModuleNotFoundError:
        return None


def _told(directories: Sequence[str], changed: Callable[[], None], watchfiles: ModuleType) -> None:
    for _ in watchfiles.watch(*directories, watch_filter=watchfiles.PythonFilter(), raise_interrupt=False):
        changed()


def _looking(directories: Sequence[str], changed: Callable[[], None], _: None) -> None:
    seen = _times(directories)
    pause = threading.Event()
    while not pause.wait(_LOOK):
        now = _times(directories)
        if now != seen:
            seen = now
            changed()


def _times(directories: Sequence[str]) -> dict[str, int]:
    times: dict[str, int] = {}
    for path in (found for directory in directories for found in _files(Path(directory))):
        try:
            times[str(path)] = path.stat().st_mtime_ns
        except OSError:  # it has gone since
            continue
    return times


def _files(directory: Path) -> Iterator[Path]:
    for path in directory.iterdir():
        if path.is_dir():
            if not path.name.startswith(".") and path.name not in _SKIP and not path.is_symlink():
                yield from _files(path)
        elif path.suffix == ".py":
            yield path
