"""The suite, part nine: what a transport remembers."""

# A test is a sentence, and says by asserts what it expects.
# ruff: noqa: D102, S101
from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ..recording import BOUNDS, Record, Recording, moment_of, place_at
from ..transport import Transport
from .suite_ground import Ground

__all__ = ["PastSuite"]


def _recording(transport: Transport) -> Recording:
    """The transport as one that remembers, or skip the test."""
    if not isinstance(transport, Recording):
        pytest.skip(f"{transport.traits.name} does not remember")
    return transport


class PastSuite(Ground):
    """What `Recording` promises."""

    def record(self, number: int, subject: str = "", kind: str = "action", ago: float = 0.0) -> Record:
        """A record of a moment ago; later numbers are later."""
        at = self.clock.time() - 100 - ago + number / 1000
        return Record(kind, place_at(at, f"-{number:06d}"), subject, f"body {number}".encode())

    async def test_records_come_newest_first_and_by_kind(self, transport: Transport) -> None:
        past = _recording(transport)
        assert list(await past.records("action")) == []
        some = [self.record(number) for number in range(5)]
        await past.record([some[2], some[0], self.record(9, kind="attempt")])
        await past.record([some[4], some[1], some[3]])
        assert list(await past.records("action")) == some[::-1]
        assert list(await past.records("action", limit=2)) == [some[4], some[3]]
        assert moment_of(some[0].place) == pytest.approx(self.clock.time() - 100, abs=5)

    async def test_pages_of_records_follow_each_other(self, transport: Transport) -> None:
        past = _recording(transport)
        some = [self.record(number, subject="x" if number % 2 else "y") for number in range(7)]
        await past.record(some)
        for subject, expected in ((None, some[::-1]), ("x", some[5::-2]), ("y", some[6::-2])):
            found: list[Record] = []
            page: Sequence[Record] = await past.records("action", subject=subject, limit=2)
            while page:
                found += page
                page = await past.records("action", subject=subject, limit=2, after=page[-1].place)
            assert found == expected
        assert list(await past.records("action", since=some[4].place)) == some[:3:-1]
        assert list(await past.records("action", subject="x", since=some[4].place)) == [some[5]]
        assert list(await past.records("action", subject="nobody")) == []

    async def test_a_record_in_the_same_place_replaces_the_one_before(self, transport: Transport) -> None:
        past = _recording(transport)
        first = self.record(1)
        again = Record(first.kind, first.place, first.subject, b"\x00\xff again")
        await past.record([first])
        await past.record([again])
        assert list(await past.records("action")) == [again]

    async def test_other_processes_and_later_ones_remember_too(self, transport: Transport) -> None:
        past = _recording(transport)
        other = _recording(await self.second(transport))
        await past.record([self.record(1)])
        await other.record([self.record(2)])
        assert [r.body for r in await past.records("action")] == [b"body 2", b"body 1"]
        assert list(await other.records("action")) == list(await past.records("action"))

    async def test_a_namespace_remembers_its_own(self, transport: Transport) -> None:
        past = _recording(transport)
        await past.record([self.record(1)])
        self.namespace += "b"
        assert list(await _recording(await self.open()).records("action")) == []

    async def test_many_may_record_at_once(self, transport: Transport) -> None:
        past = _recording(transport)
        await asyncio.gather(*(past.record([self.record(n), self.record(n + 50, "x")]) for n in range(50)))
        assert len(await past.records("action", limit=1000)) == 100

    async def test_what_is_too_old_is_let_go(self, transport: Transport) -> None:
        past = _recording(transport)
        old = [self.record(n, "x", kind="success", ago=BOUNDS["success"].age) for n in range(100)]
        new = [self.record(n, "x", kind="success") for n in range(600)]
        await past.record(old)
        await past.record(new)
        assert list(await past.records("success", limit=1000)) == new[::-1]
        assert list(await past.records("success", subject="x", limit=1000)) == new[::-1]

    async def test_no_more_is_kept_than_the_bound_and_a_tenth(self, transport: Transport) -> None:
        past, bound = _recording(transport), BOUNDS["success"].count
        some = [self.record(n, str(n), kind="success") for n in range(bound + 3000)]
        for first in range(0, len(some), 1000):
            await past.record(some[first : first + 1000])
        kept = list(await past.records("success", limit=len(some)))
        assert bound <= len(kept) <= bound * 1.1
        assert kept == some[: -len(kept) - 1 : -1]
        assert list(await past.records("success", subject="0")) == []
        assert list(await past.records("success", subject=some[-1].subject)) == [some[-1]]
