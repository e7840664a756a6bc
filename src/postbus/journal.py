"""`bus.journal`: what happened.  Writes down what this process did, about once a second, and reads what all have done.

It stands beside the road: nothing waits for it, and what it cannot write is let go and counted.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from uuid import UUID, uuid4

import msgspec

from .clock import Clock, Span, seconds
from .errors import PostbusError
from .failure import redacted
from .history import TIERS, History, Meter, Window, history_of, tier_for
from .observe import Counters, log
from .recording import BOUNDS, Record, Recording, moment_of, place_at
from .tally import Attempted, Tally
from .trail import Action, Attempt, action_of, attempt_of, packed_action, packed_attempt
from .transport import Transport

__all__ = ["Journal", "acting_as"]

_EVERY = 1.0
# Records that wait for a store that cannot be reached; then the oldest are let go.
_WAITING = 2000
# How long a closing bus waits for its last second to be written.
_FAREWELL = 1.0
_PAGE = 1000

_windows = msgspec.msgpack.Decoder(Window)
_encode = msgspec.msgpack.Encoder().encode


_actor: ContextVar[str | None] = ContextVar("postbus_actor", default=None)


@contextmanager
def acting_as(who: str) -> Iterator[None]:
    """Say who is behind what the body does to the bus, for the trail of actions."""
    token = _actor.set(who)
    try:
        yield
    finally:
        _actor.reset(token)


class Journal:
    """What happened: figures over time, attempts one by one, and what people did.

    What a transport remembers is bounded: figures of 10 seconds for 20 minutes, of a minute for 6 hours and of
    10 minutes for 7 days; 10,000 attempts that failed, 10,000 first-try successes (at most 20 a second of each process)
    and 10,000 actions.  Other processes' facts are up to about a second old; a crash loses that second.
    """

    def __init__(
        self,
        opened: Callable[[], Awaitable[object]],
        tally: Tally,
        counters: Counters,
        clock: Clock,
        *,
        on: bool,
    ) -> None:
        self._opened = opened
        self._tally = tally
        self._counters = counters
        self._clock = clock
        self._on = on
        self._store: Recording | None = None
        self._writer = ""
        self._places = 0
        self._open: dict[str, tuple[float, Window]] = {}
        self._pending: dict[tuple[str, str], Record] = {}
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._failing = False

    @property
    def enabled(self) -> bool:
        """Whether anything is written down: by the bus's `journal=`, and where the transport can."""
        return self._on and self._store is not None

    def switch(self, *, on: bool) -> None:
        """Write from now on, or not; before the bus is opened."""
        self._on = on

    # -- writing, beside the road

    async def begin(self, transport: Transport) -> None:
        """The bus was opened: write about once a second what there is to write."""
        self._store = transport if isinstance(transport, Recording) else None
        self._tally.remembers = self.enabled
        if not self.enabled:
            return
        self._writer = f"{os.getpid()}-{uuid4().hex[:12]}"
        self._meter = Meter(self._tally)
        self._meter.read()  # what a forked parent did is the parent's to tell
        self._tally.attempts.clear()
        self._pending.clear()
        self._open.clear()
        self._writing = asyncio.Lock()
        self._task = asyncio.get_running_loop().create_task(self._keep_writing())

    async def end(self) -> None:
        """The bus closes: write what is left, if that goes quickly."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                await self.flush()
        self._tally.remembers = False
        self._store = None

    async def _keep_writing(self) -> None:
        while True:
            self._tally.another_second()
            await asyncio.sleep(_EVERY)
            await self.flush()

    async def flush(self) -> None:
        """Write what is not written; what cannot be written waits, or is counted as dropped.  Never raises for that."""
        if not self.enabled:
            return
        async with self._writing:
            self._collect()
            if not self._pending or self._store is None:
                return
            records = list(self._pending.values())
            try:
                await self._store.record(records)
            except PostbusError as error:
                if not self._failing:
                    log.warning("the journal cannot be written, and goes on without: %s", redacted(str(error)))
                self._failing = True
                return
            self._failing = False
            for record in records:
                if self._pending.get((record.kind, record.place)) is record:
                    del self._pending[record.kind, record.place]

    def _collect(self) -> None:
        now = self._clock.time()
        change = self._meter.read()
        if not change.empty:
            for kind, (step, _) in TIERS.items():
                began = now // step * step
                known = self._open.get(kind)
                window = known[1] if known is not None and known[0] == began else Window()
                window.add(change)
                self._open[kind] = began, window
                self._put(Record(kind, place_at(began, f"-{self._writer}"), "", _encode(window)))
        attempts = self._tally.attempts
        while attempts:
            self._put(self._record_of(attempts.popleft()))
        self._counters.journal_dropped += self._tally.dropped
        self._tally.dropped = 0
        if len(self._pending) > _WAITING:
            self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Sums are few, and worth keeping until nobody would ask for them; of the rest the oldest are let go."""
        late = [key for key in self._pending if key[0] in TIERS and key[1] < place_at(now - BOUNDS[key[0]].age)]
        one_by_one = [key for key in self._pending if key[0] not in TIERS]
        for key in (*late, *one_by_one[: max(0, len(one_by_one) - _WAITING)]):
            del self._pending[key]
            self._counters.journal_dropped += 1

    def _put(self, record: Record) -> None:
        self._pending[record.kind, record.place] = record

    def _record_of(self, what: Attempted) -> Record:
        envelope = what.delivery.envelope
        kind, body = packed_attempt(what)
        return Record(kind, self._new_place(what.started), envelope.id_bytes.hex(), body)

    def _new_place(self, at: float) -> str:
        self._places += 1
        return place_at(at, f"-{self._places:08x}-{self._writer}")

    async def note(self, what: str, target: str = "", *, detail: str = "", result: str = "ok") -> None:
        """Write down that somebody did something.  Never raises because it cannot be written: what was done is done.

        Args:
            what: such as 'dead.replay'.
            target: whom it was done to.
            detail: more about it; secrets are taken out.
            result: what came of it.
        """
        if not self.enabled or self._store is None:
            return
        deed = packed_action(_actor.get() or _default_actor(), what, target, redacted(detail), redacted(result))
        record = Record("action", self._new_place(self._clock.time()), target, deed)
        try:
            await self._store.record([record])
        except PostbusError:
            self._put(record)  # with the next second

    # -- reading

    async def _reading(self) -> Recording | None:
        await self._opened()
        await self.flush()
        return self._store if self._on else None

    async def series(self, span: Span = 900, *, until: datetime | None = None) -> History:
        """Figures of the last `span` seconds, of all processes, in windows of 10 s, 1 min or 10 min.

        Args:
            span: seconds or timedelta; up to 20 minutes come in windows of 10 s, up to 6 hours of 1 min, up to 7 days
                of 10 min.
            until: when it ends; default now.

        Raises:
            ConfigError: for a span beyond what is kept.
        """
        reach = seconds(span, "span")
        kind, step = tier_for(reach)
        store = await self._reading()
        end = self._clock.time() if until is None else until.timestamp()
        count = max(1, -int(-reach // step))
        first = end // step * step - (count - 1) * step
        found = _each(store, kind, since=place_at(first))
        windows = [(moment_of(record.place), _windows.decode(record.body)) async for record in found]
        return history_of(windows, first=first, step=step, count=count)

    async def attempts(
        self,
        event_id: UUID | None = None,
        *,
        subscription: str | None = None,
        failed: bool | None = None,
        since: datetime | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Sequence[Attempt]:
        """Attempts, newest first.  Failures are there (see `Journal` for the bounds), first-try successes are a sample.

        Args:
            event_id: of this event only.
            subscription: of this one only.
            failed: only those with an error, or only those without.
            since: started no earlier.
            limit: at most so many.
            after: those older than this attempt's `cursor`.
        """
        kinds = ("attempt",) if failed else ("attempt", "success")
        store = await self._reading()
        subject = None if event_id is None else event_id.bytes.hex()
        start = "" if since is None else place_at(since.timestamp())
        found: list[Attempt] = []
        for kind in kinds:
            count = 0
            async for record in _each(store, kind, subject=subject, since=start, after=after):
                attempt = attempt_of(record)
                if subscription in (None, attempt.subscription) and failed in (None, attempt.failure is not None):
                    found.append(attempt)
                    count += 1
                if count >= limit:
                    break
        found.sort(key=lambda attempt: attempt.cursor, reverse=True)
        return found[: max(1, limit)]

    async def actions(
        self, *, since: datetime | None = None, limit: int = 100, after: str | None = None
    ) -> Sequence[Action]:
        """What people did, newest first, in keyset pages."""
        store = await self._reading()
        start = "" if since is None else place_at(since.timestamp())
        page = () if store is None else await store.records("action", since=start, limit=max(1, limit), after=after)
        return [action_of(record) for record in page]


async def _each(
    store: Recording | None, kind: str, *, subject: str | None = None, since: str, after: str | None = None
) -> AsyncIterator[Record]:
    """All records that match, newest first, page by page."""
    while store is not None:
        page = await store.records(kind, subject=subject, since=since, limit=_PAGE, after=after)
        for record in page:
            yield record
        if len(page) < _PAGE:
            return
        after = page[-1].place


def _default_actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without a user database
        user = str(os.getuid()) if hasattr(os, "getuid") else "somebody"
    return f"{user}@{socket.gethostname()}"
