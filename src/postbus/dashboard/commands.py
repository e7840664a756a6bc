"""What to type for what can be clicked."""

from __future__ import annotations

import shlex

__all__ = ["command"]


def command(*words: str) -> str:
    """A `postbus` command as a shell reads it, whatever the words hold."""
    return shlex.join(["postbus", *words])
