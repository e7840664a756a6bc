"""Luck for waits and retries, from dice of our own.

Those of the `random` module belong to the program: a test that seeds them, or a library such as Hypothesis that watches
them, must not feel that a bus runs in another thread.
"""

from __future__ import annotations

import os
import random

__all__ = ["dice"]

dice = random.Random()

os.register_at_fork(after_in_child=dice.seed)  # a forked child has luck of its own
