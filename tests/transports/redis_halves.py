"""The suite in two halves, for Redis: one by a clock that the tests move, and one by the server's own.

By hand no lease ends because a machine was busy, and nobody waits for one that should.  What Redis itself reckons by
its own clock, as the age of an entry, is seen by the other half.
"""

from __future__ import annotations

import asyncio

from postbus.address import Address, Settings
from postbus.clock import SystemClock
from postbus.testing.suite import TransportSuite
from postbus.testing.suite_dead import DeadSuite
from postbus.testing.suite_desk import DeskSuite
from postbus.testing.suite_doors import DoorSuite
from postbus.testing.suite_leases import LeaseSuite
from postbus.testing.suite_logs import LogSuite
from postbus.testing.suite_names import NameSuite
from postbus.testing.suite_order import OrderSuite
from postbus.testing.suite_past import PastSuite
from postbus.testing.suite_retries import RetriesSuite
from postbus.testing.suite_road import RoadSuite
from postbus.testing.suite_time import TimeSuite
from postbus.transport import Transport
from postbus.transports.redis import connect

__all__ = ["ByHand", "ByItsOwnClock"]


class _OnRedis:
    url: str

    async def make(self, settings: Settings) -> Transport:
        return connect(Address.parse(self.url), settings)


class ByHand(_OnRedis, DeadSuite, LeaseSuite, LogSuite, NameSuite, OrderSuite, PastSuite, RetriesSuite, RoadSuite):
    """Set `url`."""


class ByItsOwnClock(_OnRedis, DeskSuite, DoorSuite, TimeSuite):
    """Set `url`."""

    lease = 1.0
    patience = 10.0
    clock = SystemClock()

    async def elapse(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


assert {*TransportSuite.__bases__} <= {*ByHand.__bases__, *ByItsOwnClock.__bases__}, "each part of the suite is passed"
