"""Attempts and actions as people see them, and as they are stored.  Does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

import msgspec

from .delivery import Ack, Bury, Failure, Release, Requeue
from .recording import Record, moment_of
from .tally import Attempted

__all__ = ["Action", "Attempt", "action_of", "attempt_of", "packed_action", "packed_attempt"]

# Of a traceback: enough to find the place, so that ten thousand of them stay small.
_TRACEBACK = 2000

_Outcome = Literal["handled", "retried", "snoozed", "buried", "released", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of one delivery.

    Attributes:
        event_id, event_name: what was run.
        subscription: for whom.
        attempt: which try it was, from 1.
        started_at: aware, UTC; of runs that end at once, to a few milliseconds.
        took: seconds.
        outcome: what became of it; 'lost' when its settle was refused, because the lease had ended.
        failure: the error, redacted and shortened; None when there was none.
        reason: why it was buried.
        due_at: when it is tried again.
        worker: the owner, as in `bus.workers()`.
        cursor: pass it as `after=` for what is older.
    """

    event_id: UUID
    event_name: str
    subscription: str
    attempt: int
    started_at: datetime
    took: float
    outcome: _Outcome
    failure: Failure | None
    reason: str | None
    due_at: datetime | None
    worker: str
    cursor: str


class _Line(msgspec.Struct, array_like=True):
    """An attempt as it is stored."""

    event: bytes
    name: str
    subscription: str
    attempt: int
    started: float
    took: float
    outcome: _Outcome
    failure: Failure | None
    reason: str | None
    due: float | None
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that somebody did to the bus, such as replaying dead letters.

    Attributes:
        at: when; aware, UTC.
        who: by `acting_as`, else the user and host of the process.
        what: such as 'dead.replay' or 'subscription.pause'.
        target: whom it was done to: a subscription, for the most part.
        detail: more about it.
        result: what came of it.
        cursor: pass it as `after=` for what is older.
    """

    at: datetime
    who: str
    what: str
    target: str
    detail: str
    result: str
    cursor: str


class _Deed(msgspec.Struct, array_like=True):
    """An action as it is stored."""

    who: str
    what: str
    target: str
    detail: str
    result: str


_encode = msgspec.msgpack.Encoder().encode
_lines = msgspec.msgpack.Decoder(_Line)
_deeds = msgspec.msgpack.Decoder(_Deed)


def packed_action(who: str, what: str, target: str, detail: str, result: str) -> bytes:
    """An action as it is stored."""
    return _encode(_Deed(who, what, target, detail, result))


def packed_attempt(what: Attempted) -> tuple[str, bytes]:
    """An attempt as it is stored, and its kind: one that is only a sample is kept less long."""
    line = _line_of(what)
    return "success" if line.outcome == "handled" and line.attempt == 1 else "attempt", _encode(line)


def _line_of(what: Attempted) -> _Line:
    delivery, ended = what.delivery, what.started + what.took
    failure: Failure | None = None
    reason: str | None = None
    due: float | None = None
    outcome: _Outcome
    match what.outcome:
        case None:
            outcome = "lost"
        case Ack():
            outcome = "handled"
        case Requeue(after, failure):
            outcome, due = "retried" if failure is not None else "snoozed", ended + after
        case Bury(reason, failure):
            outcome = "buried"
        case Release():
            outcome = "released"
    if failure is not None and len(failure.traceback) > _TRACEBACK:
        failure = msgspec.structs.replace(failure, traceback="...\n" + failure.traceback[-_TRACEBACK:])
    return _Line(
        delivery.envelope.id_bytes,
        delivery.envelope.name,
        delivery.subscription,
        delivery.attempt,
        what.started,
        what.took,
        outcome,
        failure,
        reason,
        due,
        delivery.owner,
    )


def attempt_of(record: Record) -> Attempt:
    """What was stored of an attempt."""
    line = _lines.decode(record.body)
    return Attempt(
        event_id=UUID(bytes=line.event),
        event_name=line.name,
        subscription=line.subscription,
        attempt=line.attempt,
        started_at=_time(line.started),
        took=line.took,
        outcome=line.outcome,
        failure=line.failure,
        reason=line.reason,
        due_at=None if line.due is None else _time(line.due),
        worker=line.worker,
        cursor=record.place,
    )


def action_of(record: Record) -> Action:
    """What was stored of an action."""
    deed = _deeds.decode(record.body)
    return Action(
        at=_time(moment_of(record.place)),
        who=deed.who,
        what=deed.what,
        target=deed.target,
        detail=deed.detail,
        result=deed.result,
        cursor=record.place,
    )


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
