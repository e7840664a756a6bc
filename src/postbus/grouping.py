"""Dead letters by what they have in common: subscription, kind of error, and the shape of its message.  No I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from .delivery import DeadLetter

__all__ = ["DeadGroup", "Grouping", "group_of", "shape_of"]

_LENGTH = 200
# What differs between two messages of one cause: ids, addresses, quoted values, numbers.  The longest comes first.
_VARYING = re.compile(
    r"(?P<id>\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b)"
    r"|(?P<hex>\b0x[0-9a-fA-F]+\b|\b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{12,}\b)"
    r"|(?P<quoted>'[^'\n]{0,500}'|\"[^\"\n]{0,500}\"|`[^`\n]{0,500}`)"
    r"|(?P<number>\d+(?:[.,:]\d+)*)"
)
_INSTEAD = {"id": "<id>", "hex": "<hex>", "quoted": "'…'", "number": "#"}


def shape_of(message: str) -> str:
    """The first line of a message, without what differs from one letter to the next."""
    line = message.strip().partition("\n")[0][: _LENGTH * 4]
    return _VARYING.sub(lambda found: _INSTEAD[found.lastgroup or "number"], line)[:_LENGTH]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadGroup:
    """Dead letters that look like one problem.

    Attributes:
        id: short text, the same for the same subscription, error and shape.
        subscription: whose.
        error: the exception's class; empty where a letter was buried without one.
        shape: the message, or the reason where there was no error, without what differs.
        count: how many letters.
        names: the events' wire names, with how many of each.
        first_at, last_at: when the first and the last of them were buried; aware, UTC.
        newest: id of the last one buried.
    """

    id: str
    subscription: str
    error: str
    shape: str
    count: int
    names: dict[str, int]
    first_at: datetime
    last_at: datetime
    newest: UUID


def group_of(letter: DeadLetter) -> str:
    """The id of the group that a letter belongs to."""
    return _id_of(*_likeness(letter))


def _likeness(letter: DeadLetter) -> tuple[str, str, str]:
    failure = letter.failure
    if failure is None:
        return letter.subscription, "", shape_of(letter.reason)
    return letter.subscription, failure.error, shape_of(failure.message)


def _id_of(subscription: str, error: str, shape: str) -> str:
    return hashlib.sha256(f"{subscription}\0{error}\0{shape}".encode("utf-8", "replace")).hexdigest()[:16]


class _Members:
    """The letters of one group: id to the event's name, in the order of burial."""

    __slots__ = ("first_at", "last_at", "likeness", "names")

    def __init__(self, likeness: tuple[str, str, str], letter: DeadLetter) -> None:
        self.likeness = likeness
        self.names: dict[bytes, str] = {}
        self.first_at = self.last_at = letter.buried_at


class Grouping:
    """Groups that letters are added to and taken from, one by one."""

    def __init__(self) -> None:
        self._groups: dict[str, _Members] = {}
        self._group_of: dict[bytes, str] = {}

    def __len__(self) -> int:
        """How many letters."""
        return len(self._group_of)

    def add(self, letter: DeadLetter) -> None:
        """Take in a letter; one that is here already stays where it is."""
        id_ = letter.id.bytes
        if id_ in self._group_of:
            return
        likeness = _likeness(letter)
        group = self._group_of[id_] = _id_of(*likeness)
        members = self._groups.get(group)
        if members is None:
            members = self._groups[group] = _Members(likeness, letter)
        members.names[id_] = letter.envelope.name
        members.first_at = min(members.first_at, letter.buried_at)
        members.last_at = max(members.last_at, letter.buried_at)

    def remove(self, ids: Iterable[UUID]) -> None:
        """Forget letters that are gone; unknown ones do not matter."""
        for id_ in ids:
            group = self._group_of.pop(id_.bytes, None)
            if group is not None:
                members = self._groups[group]
                del members.names[id_.bytes]
                if not members.names:
                    del self._groups[group]

    def groups(self) -> list[DeadGroup]:
        """All groups, the largest first."""
        found = [_seen(id_, members) for id_, members in self._groups.items()]
        return sorted(found, key=lambda group: (-group.count, group.subscription, group.id))

    def ids(self, group: str) -> list[UUID]:
        """The letters of one group, oldest burial first."""
        members = self._groups.get(group)
        return [] if members is None else [UUID(bytes=id_) for id_ in members.names]


def _seen(id_: str, members: _Members) -> DeadGroup:
    subscription, error, shape = members.likeness
    names: dict[str, int] = {}
    for name in members.names.values():
        names[name] = names.get(name, 0) + 1
    return DeadGroup(
        id=id_,
        subscription=subscription,
        error=error,
        shape=shape,
        count=len(members.names),
        names=names,
        first_at=members.first_at,
        last_at=members.last_at,
        newest=UUID(bytes=next(reversed(members.names))),
    )
