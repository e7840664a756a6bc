"""The process of the outside services: four desks behind a loopback socket, and a record of what each did.

python -m postbus.demo.office FOLDER SEED     prints its port, obeys lines such as 'down rebooking', ends with stdin
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from pathlib import Path

import msgspec

from .services import Desk, Request

__all__ = ["all_desks"]


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
        self._dice = random.Random(seed)
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
                sys.stderr.write(f"services: {order!r} is not an order\n")

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
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=listen, name="orders", daemon=True).start()
    await ended.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
