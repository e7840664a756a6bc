"""Who works: told from what the workers say of themselves, and from which processes are still there."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from postbus.transport import WorkerInfo

__all__ = ["Member", "Roster", "State"]

State: TypeAlias = Literal["running", "stopping", "killed", "gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One worker process; `number` counts them as they come."""

    number: int
    pid: int
    state: State


class Roster:
    """The workers of a run, those that were started by hand in another terminal included."""

    def __init__(self, is_alive: Callable[[int], bool]) -> None:
        self._is_alive = is_alive
        self._members: dict[str, Member] = {}
        self._arrived: list[Member] = []
        self._died: list[Member] = []

    def update(self, beats: Sequence[WorkerInfo]) -> None:
        """Take in who says that it lives: one that is listed though its process has gone did not end, but died."""
        listed = {beat.owner: beat for beat in beats}
        for owner, beat in listed.items():
            known = self._members.get(owner)
            if known is None:
                known = self._members[owner] = Member(number=len(self._members) + 1, pid=beat.pid, state="running")
                self._arrived.append(known)
            if known.state in ("running", "stopping"):
                self._move(owner, self._state_of(beat))
        for owner, known in self._members.items():
            if owner not in listed and known.state in ("running", "stopping"):
                self._move(owner, "gone")

    def _state_of(self, beat: WorkerInfo) -> State:
        if beat.host == socket.gethostname() and not self._is_alive(beat.pid):
            return "killed"
        return "running" if beat.state == "running" else "stopping"

    def _move(self, owner: str, state: State) -> None:
        before = self._members[owner]
        self._members[owner] = after = replace(before, state=state)
        if state == "killed" and before.state != "killed":
            self._died.append(after)

    def members(self) -> tuple[Member, ...]:
        """Everybody who ever worked."""
        return tuple(self._members.values())

    def living(self) -> tuple[Member, ...]:
        """Those that work now."""
        return tuple(member for member in self.members() if member.state == "running")

    def arrived(self) -> list[Member]:
        """Those that are new since the last call."""
        new, self._arrived = self._arrived, []
        return new

    def died(self) -> list[Member]:
        """Those that died since the last call."""
        dead, self._died = self._died, []
        return dead
