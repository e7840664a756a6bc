"""What operators ask of one worker: to be quiet, to go on, to stop.  Kept where the journal is, read by the worker.

A wish is a record, so that every transport that remembers passes it on; a worker looks about once a second, unless its
journal is off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, Protocol, TypeAlias, get_args
from uuid import uuid4

from .errors import ConfigError, PostbusError
from .observe import log
from .recording import Record, Recording, place_at
from .transport import Transport

__all__ = ["WISHES", "Willing", "Wish", "heed", "wish"]

Wish: TypeAlias = Literal["quiet", "resume", "stop"]
WISHES: tuple[Wish, ...] = get_args(Wish)

_KIND = "wish"
_EVERY = 1.0


class Willing(Protocol):
    """A worker, as far as wishes go."""

    @property
    def owner(self) -> str:
        """Its name at the transport."""
        ...

    def quiet(self) -> None:
        """Claim nothing more, hand back what has not started, let what runs end; and stay."""
        ...

    def resume(self) -> None:
        """Claim again."""
        ...

    async def retire(self) -> None:
        """End as at a shutdown, for good: whoever started it does not start it again."""
        ...


async def wish(transport: Transport, now: float, owner: str, what: Wish) -> None:
    """Ask this of a worker, at this time of the wall clock.

    Raises:
        ConfigError: when nobody could be asked so.
    """
    if what not in WISHES:
        raise ConfigError(f"{what!r} cannot be asked of a worker: expected one of {', '.join(WISHES)}")
    if not isinstance(transport, Recording):
        raise ConfigError(f"{transport.traits.name}:// passes nothing on to workers: send them signals instead")
    place = place_at(now, f"-{uuid4().hex[:12]}")
    await transport.record([Record(_KIND, place, owner, what.encode())])


async def heed(worker: Willing, opened: Callable[[], Awaitable[Transport]]) -> None:
    """Do what is asked of this worker, until cancelled."""
    last = ""
    while True:
        await asyncio.sleep(_EVERY)
        try:
            transport = await opened()
            if not isinstance(transport, Recording):
                return
            found = await transport.records(_KIND, subject=worker.owner, since=last, limit=1)
        except PostbusError:  # the worker says that the store is away; then nothing could be asked either
            found = ()
        if found and found[0].place != last:
            last = found[0].place
            await _grant(worker, found[0].body.decode("utf-8", "replace"))


async def _grant(worker: Willing, what: str) -> None:
    log.info("worker %s was asked to %s", worker.owner, {"quiet": "be quiet"}.get(what, what))
    match what:
        case "quiet":
            worker.quiet()
        case "resume":
            worker.resume()
        case "stop":
            await worker.retire()
        case _:
            log.warning("worker %s was asked to %r, which means nothing here", worker.owner, what[:40])
