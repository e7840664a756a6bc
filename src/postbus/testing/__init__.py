"""What tests of and with postbus need: a clock that is moved by hand, and the suite that every transport must pass.

`postbus.testing.model` drives a transport with Hypothesis, which it alone imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .clock import ManualClock

if TYPE_CHECKING:
    from .suite import TransportSuite

__all__ = ["ManualClock", "TransportSuite"]

if not TYPE_CHECKING:  # a type checker would take every unknown name for something this returns

    def __getattr__(name: str) -> object:
        if name != "TransportSuite":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_module(f"{__name__}.suite").TransportSuite
