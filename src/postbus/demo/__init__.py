"""`postbus demo`: four days of a blizzard at New York's airports, in a minute, on a real bus with real workers.

    from postbus.demo import DemoOptions, run
    exit_code = run(DemoOptions(seconds=20, headless=True))

Reads well from `airport.py` (the program that is shown) to `ledger.py` (whether it adds up).
"""

from .program import DemoOptions, run

__all__ = ["DemoOptions", "run"]
