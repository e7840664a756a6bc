"""What is published around an event: identity, time, headers."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postbus import InvalidName
from postbus.envelope import EPOCH, Envelope, checked_headers, new_id


def envelope(**changes: Any) -> Envelope:
    given = {"id_bytes": UUID(int=1).bytes, "name": "a.b.c", "topic": "a.b", "key": None, "micros": 0, "version": 1}
    return Envelope(**{**given, "format": "application/json", "body": b"1", **changes})


def test_ids_are_uuid7_and_grow() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert ids == sorted(set(ids))
    assert {UUID(bytes=one).version for one in ids} == {7}
    assert envelope(id_bytes=ids[0]).id == UUID(bytes=ids[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_ids_differ_after_a_fork() -> None:
    new_id()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # no pytest here: the child writes and is gone
        os.write(write, b"".join(new_id() for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        theirs = pipe.read()
    there = {theirs[at : at + 16] for at in range(0, len(theirs), 16)}
    assert len(there) == 100
    assert not there & {new_id() for _ in range(100)}


@given(at=st.datetimes(timezones=st.just(UTC)))
def test_times_are_exact_to_the_microsecond(at: datetime) -> None:
    micros = (at - EPOCH) // timedelta(microseconds=1)
    told = envelope(micros=micros, expires_micros=micros)
    assert told.time == at == told.expires_at
    assert told.time.tzinfo is UTC


def test_what_is_not_there_is_none_or_empty() -> None:
    bare = envelope()
    assert (bare.expires_at, bare.correlation_id, bare.causation_id, dict(bare.headers)) == (None, None, None, {})


def test_the_chain_is_in_the_headers() -> None:
    linked = envelope(header_map={"correlationid": "c", "causationid": "d"})
    assert (linked.correlation_id, linked.causation_id) == ("c", "d")


def test_an_envelope_never_changes() -> None:
    sealed = envelope(header_map={"a": "b"})
    with pytest.raises(AttributeError):
        sealed.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        sealed.headers["a"] = "c"  # type: ignore[index]
    with pytest.raises(TypeError):
        envelope().headers["a"] = "c"  # type: ignore[index]


def test_headers_are_copied() -> None:
    given = {"X-Tenant.id_1": "grüße"}
    checked = checked_headers(given)
    assert checked == given
    assert checked is not given
    assert checked_headers(None) is checked_headers({}) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"": "a"},
        {"a b": "c"},
        {"a:b": "c"},
        {"ä": "c"},
        {"a\n": "c"},
        {"a" * 201: "c"},
        {5: "c"},
        {"a": 5},
        {"a": None},
        {"a": "b\r\nc: d"},
        {"a": "\0"},
        {"a": "ü\x7f"},
        {"a": "\ud800"},
        {"a": "b" * 8_193},
        {f"h{number}": "a" for number in range(65)},
        ["a"],
        "a",
    ],
)
def test_a_header_that_some_transport_could_not_carry_is_refused(headers: Any) -> None:
    with pytest.raises(InvalidName, match="header") as caught:
        checked_headers(headers)
    assert len(str(caught.value)) < 400
