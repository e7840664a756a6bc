"""What SQLite's own tests stand on: a transport on one file, events, and the laws that its tables must keep."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from postbus.address import Address, Settings
from postbus.clock import Clock, SystemClock
from postbus.delivery import Ack, Delivery, Outcome
from postbus.envelope import Envelope, new_id
from postbus.transport import Claimed, Outgoing, SubscriptionSpec
from postbus.transports.sqlite import SqliteTransport, connect

__all__ = ["SPEC", "broken_laws", "claim", "item", "items", "made", "opened", "settle", "unstorable"]

SPEC = SubscriptionSpec(name="s", wants=("a.>",))


def made(path: Path, options: str = "", **settings: Any) -> SqliteTransport:
    """A transport on that file, not yet open."""
    return connect(Address.parse(f"sqlite:///{path}{options}"), Settings(**settings))


async def opened(
    path: Path, *specs: SubscriptionSpec, options: str = "", clock: Clock | None = None, **settings: Any
) -> SqliteTransport:
    """An open transport on that file, with these subscriptions, or SPEC."""
    transport = made(path, options, clock=clock or SystemClock(), **settings)
    await transport.open()
    await transport.declare(specs or (SPEC,))
    return transport


def item(
    body: bytes = b"x", *, name: str = "a.b", key: str | None = None, delay: float = 0.0, id_: bytes | None = None
) -> Outgoing:
    """An event on its way in."""
    envelope = Envelope(id_ or new_id(), name, "a", key, time.time_ns() // 1000, 1, "application/msgpack", body)
    return Outgoing(envelope, delay=delay)


def unstorable() -> Outgoing:
    """One whose version no column can hold."""
    return Outgoing(Envelope(new_id(), "a.b", "a", None, 0, 2**70, "application/msgpack", b"x"))


def items(count: int) -> list[Outgoing]:
    """Many of them."""
    return [item(str(number).encode()) for number in range(count)]


async def claim(transport: SqliteTransport, subscription: str = "s", **options: Any) -> Claimed:
    """Claim with what does not matter filled in."""
    return await transport.claim(subscription, **{"owner": "w", "limit": 100, "lease": 30.0, **options})


async def settle(
    transport: SqliteTransport, deliveries: Iterable[Delivery], outcome: Outcome | None = None
) -> Sequence[str]:
    """Settle all alike; what the answers are called."""
    answers = await transport.settle([(delivery, outcome or Ack()) for delivery in deliveries])
    return [type(answer).__name__ for answer in answers]


def broken_laws(path: Path, namespace: str = "postbus") -> list[str]:
    """What does not hold of the tables: a delivery is in one place, an event knows how many hold it, keys go on."""
    connection = sqlite3.connect(path)
    try:
        return list(_broken(connection, namespace))
    finally:
        connection.close()


def _broken(connection: sqlite3.Connection, namespace: str) -> Iterable[str]:
    def rows(sql: str) -> list[tuple[Any, ...]]:
        return connection.execute(sql.replace("{", f'"{namespace}_').replace("}", '"')).fetchall()

    places: Counter[tuple[int, int]] = Counter()
    for subscription, first, last in rows("SELECT subscription, first, last FROM {ready}"):
        if first > last:
            yield f"an empty range {first}..{last}"
        places.update((subscription, seq) for seq in range(first, last + 1))
    for state in ("later", "suspect", "lease", "waiting", "dead"):
        places.update(rows(f"SELECT subscription, seq FROM {{{state}}}"))
    yield from (f"{place} is in {count} places" for place, count in places.items() if count > 1)
    held = Counter(seq for _, seq in places)
    pending = dict(rows("SELECT seq, pending FROM {event} WHERE pending > 0 OR keep_until IS NULL"))
    if held != Counter(pending):
        yield f"events are held {dict(held)} and say {pending}"
    waiting = rows(
        "SELECT count(*) FROM {waiting} w LEFT JOIN {busy} b USING (subscription, topic, key) "
        "WHERE coalesce(b.holders, 0) = 0 AND b.parked IS NULL"
    )
    if waiting[0][0]:
        yield f"{waiting[0][0]} deliveries wait for a key that nobody holds"
    idle = rows("SELECT count(*) FROM {busy} WHERE holders = 0 AND parked IS NULL")
    if idle[0][0]:
        yield f"{idle[0][0]} keys are held by nobody"
