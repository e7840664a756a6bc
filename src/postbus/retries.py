"""`bus.retries`: what failed and waits for another attempt can be seen, run at once, or let go of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from .bulk import CHUNK, by_chunks, query_text
from .catalog import Catalog
from .delivery import Failure
from .errors import ConfigError
from .event import Pattern, is_pattern
from .inspection import sealed
from .journal import Journal
from .retrying import Hastening, Retrying
from .transport import Transport

__all__ = ["Retries"]

# Failed attempts that the journal is asked for, where a transport does not keep why a delivery is retried.
_REMEMBERED = 2000

_Key = tuple[bytes, str]


class Retries:
    """Deliveries that were requeued and are not due, from any process that opens the bus."""

    def __init__(self, opened: Callable[[], Awaitable[Transport]], catalog: Catalog, journal: Journal) -> None:
        self._opened = opened
        self._catalog = catalog
        self._journal = journal

    async def list(
        self, subscription: str, *, limit: int = 100, after: Retrying | str | None = None
    ) -> Sequence[Retrying]:
        """One page, the soonest first.

        Where the transport does not keep the last failure, the journal's is shown, if it still has it.

        Args:
            subscription: whose.
            limit: at most so many.
            after: those behind this one: the last one of the page before.

        Raises:
            ConfigError: when the transport cannot show them.
            UnknownSubscription: when there is none of that name.
        """
        return await self._page(subscription, limit, after.place if isinstance(after, Retrying) else after, {})

    async def each(
        self,
        subscription: str,
        *,
        ids: Sequence[UUID] | None = None,
        name: str | None = None,
        key: str | None = None,
        error: str | None = None,
    ) -> AsyncIterator[Retrying]:
        """All that match, page by page.

        Args:
            subscription: whose.
            ids: the events' ids.
            name: the event's wire name or a pattern.
            key: the event's key.
            error: a part of the last failure's class or message, ignoring case.
        """
        wanted = None if ids is None else {id_.bytes for id_ in ids}
        pattern = Pattern(name) if name is not None and is_pattern(name) else None
        failures: dict[_Key, Failure] = {}
        after: str | None = None
        while page := await self._page(subscription, CHUNK, after, failures):
            for one in page:
                envelope = one.envelope
                if (
                    (wanted is None or envelope.id_bytes in wanted)
                    and (name is None or (pattern.matches(envelope.name) if pattern else envelope.name == name))
                    and (key is None or envelope.key == key)
                    and (error is None or _says(one.failure, error))
                ):
                    yield one
            after = page[-1].place

    async def count(self, subscription: str, **query: Any) -> int:
        """How many match; arguments as of `each`."""
        return sum([1 async for _ in self.each(subscription, **query)])

    async def run_now(
        self,
        subscription: str,
        ids: Sequence[UUID] | None = None,
        *,
        progress: Callable[[int], None] | None = None,
        **query: Any,
    ) -> int:
        """Let the next attempt be made now instead of when it is due; return how many were moved.

        Args:
            subscription: whose.
            ids: the events' ids; None means all that match `query`.
            progress: told the number done after each chunk.
            query: as of `each`.
        """
        store = await self._store()
        return await self._act("retry.run", store.hasten, subscription, progress, {"ids": ids, **query})

    async def discard(
        self,
        subscription: str,
        ids: Sequence[UUID] | None = None,
        *,
        progress: Callable[[int], None] | None = None,
        **query: Any,
    ) -> int:
        """Let go of them for good: no further attempt is made, and no dead letter is left; arguments as of `run_now`.

        In an ordered subscription their keys go on.
        """
        store = await self._store()
        return await self._act("retry.discard", store.abandon, subscription, progress, {"ids": ids, **query})

    async def _store(self) -> Hastening:
        transport = await self._opened()
        if isinstance(transport, Hastening):
            return transport
        raise ConfigError(f"{transport.traits.name}:// does not show its retries")

    async def _page(
        self, subscription: str, limit: int, after: str | None, failures: dict[_Key, Failure]
    ) -> Sequence[Retrying]:
        store = await self._store()
        page = await store.retrying(subscription, limit=max(1, limit), after=after)
        if not failures and any(one.failure is None for one in page):
            failures.update(await self._failures(subscription))
        return [
            replace(
                one,
                envelope=sealed(self._catalog, one.envelope, one.event),
                failure=one.failure or failures.get((one.envelope.id_bytes, subscription)),
                event=None,
            )
            for one in page
        ]

    async def _failures(self, subscription: str) -> Mapping[_Key, Failure]:
        """The last failure of each event, as far as the journal has it."""
        attempts = await self._journal.attempts(subscription=subscription, failed=True, limit=_REMEMBERED)
        return {
            (attempt.event_id.bytes, subscription): attempt.failure
            for attempt in reversed(attempts)
            if attempt.failure is not None
        }

    async def _act(
        self,
        what: str,
        act: Callable[[str, Sequence[str]], Awaitable[int]],
        subscription: str,
        progress: Callable[[int], None] | None,
        query: dict[str, Any],
    ) -> int:
        """Decide on all of them first: one that fails again meanwhile must not be moved twice."""
        chosen = [one.place async for one in self.each(subscription, **query)]
        done = await by_chunks(act, subscription, chosen, progress)
        await self._journal.note(what, subscription, detail=query_text(query), result=f"{done} retries")
        return done


def _says(failure: Failure | None, part: str) -> bool:
    return failure is not None and part.casefold() in f"{failure.error}\n{failure.message}".casefold()
