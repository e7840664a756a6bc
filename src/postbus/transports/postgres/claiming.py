"""Deliveries go out: each claim is one call of `claim`, which leases them under a new fence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...clock import Clock
from ...delivery import Bury, Delivery
from ...dice import dice
from ...errors import UnknownSubscription
from ...transport import Claimed
from .line import AnswerLost, Line, Refusal, Row
from .schema import Tables
from .settling import Settling
from .wire import Malformed, envelope_of, salvaged

__all__ = ["Claiming", "Receipt"]

_UNKNOWN, _PAUSED = 0, 1
_NOTHING = Claimed(())
# Where a look at all of a subscription takes more seconds than this, so often that it is no chance, somebody's open
# transaction keeps what is done from being tidied away: then it is done again after a rest of so many times as long,
# and takes a tenth of the time.
_DEAR = 0.001
_OFTEN = 5
_REST = 9.0
# Of an ordered subscription, what becomes ready next follows what is leased, and may lie before the first that is ready
# now: so many seconds are left for that.
_LAG = 0.25


class Receipt(NamedTuple):
    """What finds a delivery again."""

    subscription: int
    seq: int


class _Fate:
    """Of one owner's claims for one subscription: the last fence that was heard of, and whether an answer was lost."""

    __slots__ = ("fence", "lost", "under_way")

    def __init__(self) -> None:
        self.fence = 0
        self.lost = False
        self.under_way = 0


class _View(NamedTuple):
    """Until when, on the monotonic clock, only what is ready from the delivery `first` on is looked at.

    `newer` was the first at `since`, and is looked from when the lag has passed.  `dear` is how many looks at all of it
    took long, one after the other.
    """

    until: float = 0.0
    first: int = 0
    newer: int = 0
    since: float = 0.0
    dear: int = 0

    def moved(self, first: int, now: float, lag: float) -> _View:
        """The first that is ready is this one now."""
        if not lag:
            return self._replace(first=first)
        return self if now - self.since < lag else self._replace(first=self.newer, newer=first, since=now)


_ALL = _View()


class Claiming:
    """The statement of a claim."""

    def __init__(self, line: Line, tables: Tables, settling: Settling, clock: Clock) -> None:
        self._line = line
        self._settling = settling
        self._claim = tables("SELECT * FROM postbus.claim(%s, %s, %s::integer, %s::double precision, %s, %s, %s)")
        self._swept: dict[str, float] = {}
        self._views: dict[str, _View] = {}
        self._now = clock.monotonic
        self._fates: dict[tuple[str, str], _Fate] = {}
        self._stranded = tables(
            "SELECT d.subscription, d.seq, d.fence FROM postbus.delivery d JOIN postbus.subscription s "
            "ON s.id = d.subscription WHERE s.name = %s AND d.state = 5 AND d.owner = %s AND d.fence > %s"
        )

    async def claim(self, subscription: str, owner: str, limit: int, lease: float, *, alone: bool) -> Claimed:
        """See `Transport.claim`."""
        fate = self._fates.setdefault((subscription, owner), _Fate())
        if fate.lost and not fate.under_way:
            await self._hand_back(subscription, owner, fate)
        fate.under_way += 1
        try:
            return await self._try(fate, subscription, owner, limit, lease, alone=alone)
        except AnswerLost:
            fate.lost = True
            raise
        finally:
            fate.under_way -= 1

    async def _hand_back(self, subscription: str, owner: str, fate: _Fate) -> None:
        """What was taken by claims whose answer was lost is nobody's until its lease ends: hand it back now."""
        rows = await self._line.ask(self._stranded, (subscription, owner, fate.fence))
        if rows:
            await self._settling.release(owner, [(Receipt(id_, seq), fence) for id_, seq, fence in rows])
        fate.lost = False

    async def _try(
        self, fate: _Fate, subscription: str, owner: str, limit: int, lease: float, *, alone: bool
    ) -> Claimed:
        view = _ALL if alone else self._view(subscription)
        sweeps = alone or (view is _ALL and self._now() >= self._swept.get(subscription, 0.0))
        values = (subscription, owner, max(0, limit), lease, alone, sweeps, view.first)
        try:
            *rows, state = await self._line.ask(self._claim, values)
        except Refusal as error:
            if not error.again:
                raise
            *rows, state = await self._line.ask(self._claim, values)
        fate.fence = max(fate.fence, state[4] or 0)
        if state[0] == _UNKNOWN:
            raise UnknownSubscription(f"no subscription is named {subscription!r}: declare it first")
        if state[0] == _PAUSED:
            return _NOTHING
        self._looked(subscription, view, state)
        if sweeps:  # jittered, so that many processes do not look at once
            self._swept[subscription] = self._now() + lease / 4 * dice.uniform(0.75, 1.0)
        deliveries = await self._given(rows, subscription, owner, alone=alone)
        return Claimed(deliveries, self._next_due(view, state[15]), state[16])

    def _view(self, subscription: str) -> _View:
        """From where to look: at all of it, unless that was dear and not long ago."""
        view = self._views.get(subscription, _ALL)
        return view if self._now() < view.until else _ALL

    def _looked(self, subscription: str, view: _View, state: Row) -> None:
        """What a look found, as its last row says."""
        ordered, first, took = state[3], state[2], state[9] / 1e6
        now = self._now()
        seen = self._views.pop(subscription, _ALL)
        if view is _ALL:
            if took <= _DEAR:
                return
            seen = seen._replace(dear=seen.dear + 1)
            if seen.dear >= _OFTEN:
                seen = seen._replace(until=now + took * _REST)
        self._views[subscription] = seen if first is None else seen.moved(first, now, _LAG if ordered else 0.0)

    def _next_due(self, view: _View, wait: float | None) -> float | None:
        """What was not looked at is due when it may be looked at again."""
        waits = [] if wait is None else [wait]
        if view is not _ALL:
            waits.append(view.until - self._now())
        return max(0.0, min(waits)) if waits else None

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
