"""The world outside as a program meets it: a desk is asked over a socket, and does it, fails, or will not.

A desk can be slow, down or stubborn.  It knows nothing of postbus; see `office` for the process that holds them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

import msgspec

__all__ = ["Answer", "Desk", "Refused", "Request", "Unavailable", "ask"]

PATIENCE = 5.0


class Request(msgspec.Struct, frozen=True):
    """What a desk is asked to do, once for each key."""

    desk: str
    key: str
    flight: str
    tail: str | None


class Answer(msgspec.Struct, frozen=True):
    """What a desk says: 'repeat' when it had done it before, and did nothing now."""

    says: Literal["done", "repeat", "unavailable", "refused"]
    why: str = ""


class Unavailable(Exception):
    """The desk did not do it; it may later."""


class Refused(Exception):
    """The desk will not do it, however often it is asked."""


async def ask(port: int, request: Request) -> Answer:
    """Ask a desk, over a connection of its own.

    Raises:
        Unavailable: when it is down or does not answer.
        Refused: when it will not.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(msgspec.json.encode(request) + b"\n")
                reply = await reader.readline()
            finally:
                writer.close()
        answer = msgspec.json.decode(reply, type=Answer)
    except (OSError, msgspec.DecodeError) as error:  # TimeoutError is an OSError
        raise Unavailable(f"{request.desk} gave no answer: {type(error).__name__} {error}") from error
    match answer.says:
        case "done" | "repeat":
            return answer
        case "unavailable":
            raise Unavailable(f"{request.desk}: {answer.why}")
        case "refused":
            raise Refused(f"{request.desk}: {answer.why}")


@dataclass(slots=True)
class Desk:
    """One service's mind: what it would answer, and how long it takes.

    Attributes:
        pace: seconds an answer takes, at least and at most.
        down: it answers slowly, that it cannot.
        needs_tail: its release has a fault: it refuses flights that were never given an aircraft.
    """

    name: str
    pace: tuple[float, float]
    down: bool = False
    needs_tail: bool = False
    served: set[str] = field(default_factory=set)

    def takes(self, luck: float) -> float:
        """How long the answer takes, by a luck from 0 to 1; a desk in trouble is slow to say so."""
        least, most = self.pace
        return 0.35 + 0.15 * luck if self.down else least + (most - least) * luck

    def decide(self, request: Request) -> Answer:
        """Answer, and remember what was done."""
        if self.down:
            return Answer("unavailable", "503, too many passengers at once")
        if self.needs_tail and request.tail is None:
            return Answer("refused", f"422, {request.flight} has no aircraft registration")
        if request.key in self.served:
            return Answer("repeat")
        self.served.add(request.key)
        return Answer("done")
