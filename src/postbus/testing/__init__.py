"""What tests of and with postbus need: a clock that is moved by hand, and the suite that every transport must pass."""

from __future__ import annotations

from .clock import ManualClock

__all__ = ["ManualClock"]
