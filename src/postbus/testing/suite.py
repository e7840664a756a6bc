"""What a transport must keep, as tests: its `Traits` are read, and held to be true.

    class TestShelf(TransportSuite):
        async def make(self, settings: Settings) -> Transport:
            return connect(Address.parse("shelf://localhost/0"), settings)

pytest-asyncio is expected in its automatic mode.  Time stands still unless a test lets it pass; a transport whose
server has a clock of its own sets `clock`, a short `lease` and some `patience`, and overrides `elapse` to wait.
"""

from __future__ import annotations

from .suite_dead import DeadSuite
from .suite_desk import DeskSuite
from .suite_doors import DoorSuite
from .suite_leases import LeaseSuite
from .suite_logs import LogSuite
from .suite_names import NameSuite
from .suite_order import OrderSuite
from .suite_past import PastSuite
from .suite_retries import RetriesSuite
from .suite_road import RoadSuite
from .suite_time import TimeSuite

__all__ = ["TransportSuite"]


class TransportSuite(
    RoadSuite,
    LeaseSuite,
    TimeSuite,
    OrderSuite,
    DeadSuite,
    DeskSuite,
    NameSuite,
    DoorSuite,
    PastSuite,
    LogSuite,
    RetriesSuite,
):
    """Subclass it, say how the transport is made, and let pytest run it."""
