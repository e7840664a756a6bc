"""The world outside: four desks behind a loopback socket, in a process of their own, that can be slow, down or stubborn.

They know nothing of postbus.  Each keeps its own record of what it did, by the caller's idempotency key.

    python -m postbus.demo.services FOLDER SEED     prints its port, obeys lines such as 'down rebooking', ends with stdin
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
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


def all_desks() -> dict[str, Desk]:
    """The four, as they are when the day begins."""
    desks = (
        Desk("messages", (0.004, 0.015)),
        Desk("rebooking", (0.015, 0.045)),
        Desk("refunds", (0.010, 0.030), needs_tail=True),
        Desk("payroll", (0.002, 0.008)),
    )
    return {desk.name: desk for desk in desks}


class _Office:
    """The desks behind their socket."""

    def __init__(self, record: Path, seed: int) -> None:
        self.desks = all_desks()
        self._dice = random.Random(seed)  # for waiting times
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def obey(self, order: str) -> None:
        match order.split():
            case ["down", name]:
                self.desks[name].down = True
            case ["up", name]:
                self.desks[name].down = False
            case ["fix", name]:
                self.desks[name].needs_tail = False
            case _:
                print(f"services: {order!r} is not an order", file=sys.stderr)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = msgspec.json.decode(await reader.readline(), type=Request)
            desk = self.desks[request.desk]
            await asyncio.sleep(desk.takes(self._dice.random()))
            answer = desk.decide(request)
            os.write(self._record, f"{desk.name} {request.key} {answer.says}\n".encode())
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
        except (ConnectionError, msgspec.DecodeError):
            pass  # The caller was killed before it had asked, or before it was answered: it will ask again.
        finally:
            writer.close()


async def _main(folder: Path, seed: int) -> None:
    office = _Office(folder / "services.log", seed)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(office.obey, line.strip())
        loop.call_soon_threadsafe(ended.set)

    server = await asyncio.start_server(office.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    threading.Thread(target=listen, name="orders", daemon=True).start()
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
