"""The road without hooks; see hookless."""

from __future__ import annotations

from . import hookless  # first: it changes what is imported behind it
from .counted import bytecodes
from .road import publish_to_settled

__all__ = ["bytecodes", "hookless", "publish_to_settled"]
