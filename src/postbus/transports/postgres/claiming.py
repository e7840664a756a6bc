"""Deliveries go out: each claim is one call of `claim`, which leases them under a new fence."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import NamedTuple

from ...delivery import Bury, Delivery
from ...errors import UnknownSubscription
from ...transport import Claimed
from .line import Line, Refusal, Row
from .schema import Tables
from .settling import Settling
from .wire import Malformed, envelope_of, salvaged

__all__ = ["Claiming", "Receipt"]

_UNKNOWN, _PAUSED = 0, 1
_NOTHING = Claimed(())


class Receipt(NamedTuple):
    """What finds a delivery again."""

    subscription: int
    seq: int


class Claiming:
    """The statement of a claim."""

    def __init__(self, line: Line, tables: Tables, settling: Settling) -> None:
        self._line = line
        self._settling = settling
        self._claim = tables("SELECT * FROM postbus.claim(%s, %s, %s::integer, %s::double precision, %s, %s)")
        self._swept: dict[str, float] = {}

    async def claim(self, subscription: str, owner: str, limit: int, lease: float, *, alone: bool) -> Claimed:
        """See `Transport.claim`."""
        sweeps = alone or time.monotonic() >= self._swept.get(subscription, 0.0)
        values = (subscription, owner, max(0, limit), lease, alone, sweeps)
        try:
            *rows, state = await self._line.ask(self._claim, values)
        except Refusal as error:
            if not error.again:
                raise
            *rows, state = await self._line.ask(self._claim, values)
        if state[0] == _UNKNOWN:
            raise UnknownSubscription(f"no subscription is named {subscription!r}: declare it first")
        if state[0] == _PAUSED:
            return _NOTHING
        if sweeps:  # jittered, so that many processes do not look at once
            self._swept[subscription] = time.monotonic() + lease / 4 * random.uniform(0.75, 1.0)
        deliveries = await self._given(rows, subscription, owner, alone=alone)
        return Claimed(deliveries, None if state[15] is None else max(0.0, state[15]), state[16])

    async def _given(self, rows: Sequence[Row], name: str, owner: str, *, alone: bool) -> list[Delivery]:
        """The deliveries of these rows; one that is no event is buried."""
        given: list[Delivery] = []
        malformed: list[tuple[Delivery, Bury]] = []
        for row in rows:
            _, subscription, seq, attempt, fence = row[:5]
            receipt = Receipt(subscription, seq)
            try:
                given.append(Delivery(envelope_of(row[5:15]), name, attempt, fence, owner, receipt, alone))
            except Malformed as error:
                delivery = Delivery(salvaged(row[5:15]), name, attempt, fence, owner, receipt, alone)
                malformed.append((delivery, Bury(str(error))))
        if malformed:
            await self._settling.settle(malformed)
        return given
