"""`bus.dead`: buried deliveries can be seen, mended, replayed and discarded, one or all that match."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from .bulk import CHUNK, by_chunks, query_text
from .catalog import Catalog
from .delivery import DeadLetter
from .enlisting import Remembering
from .errors import ConfigError, PostbusError, UnknownSubscription
from .grouping import DeadGroup, Grouping, group_of
from .inspection import NOWHERE, Opening, inspectable, known, sealed
from .journal import Journal
from .transport import Amending, DeadQuery, Inspectable

__all__ = ["DeadLetters"]


class DeadLetters:
    """`bus.dead`: buried deliveries, from any process that opens the bus."""

    def __init__(
        self,
        opened: Opening,
        catalog: Catalog,
        journal: Journal,
        elsewhere: Mapping[str, Opening] = NOWHERE,
        *,
        marks: Remembering | None = None,
    ) -> None:
        """Make it; `elsewhere` says which subscriptions another store holds, `marks` where done marks are."""
        self._opened = opened
        self._marks = marks
        self._catalog = catalog
        self._journal = journal
        self._elsewhere = elsewhere

    async def _store(self, subscription: str | None) -> Inspectable:
        return inspectable(await self._elsewhere.get(subscription or "", self._opened)())

    async def list(
        self, subscription: str | None = None, *, limit: int = 100, after: UUID | DeadLetter | None = None, **query: Any
    ) -> Sequence[DeadLetter]:
        """One page of dead letters, oldest burial first.

        Args:
            subscription: only of this one.
            limit: at most so many.
            after: those behind this letter: the last one of the page before.
            query: fields of `DeadQuery`: ids, name, key, error, reason, since, before.

        Raises:
            UnknownSubscription: when there is none of that name.
        """
        behind = after.id if isinstance(after, DeadLetter) else after
        store = await self._store(subscription)
        await known(store, subscription)
        letters = await store.dead(subscription, _query(query), limit=max(1, limit), after=behind)
        return [self._with_bytes(letter) for letter in letters]

    async def each(
        self, subscription: str | None = None, *, group: str | None = None, **query: Any
    ) -> AsyncIterator[DeadLetter]:
        """All dead letters that match, page by page; `group` is the id of one of `groups`."""
        after: DeadLetter | None = None
        while page := await self.list(subscription, limit=CHUNK, after=after, **query):
            for letter in page:
                if group is None or group_of(letter) == group:
                    yield letter
            after = page[-1]

    async def groups(self, subscription: str | None = None, **query: Any) -> Sequence[DeadGroup]:
        """Dead letters by what they have in common: subscription, error and the shape of its message.

        Reads all that match, which takes a second for some ten thousand.

        Args:
            subscription: only of this one.
            query: as of `list`.
        """
        grouping = Grouping()
        async for letter in self.each(subscription, **query):
            grouping.add(letter)
        return grouping.groups()

    async def amend(self, id: UUID, payload: Any) -> DeadLetter:  # noqa: A002 - the word of the public API
        """Let a dead letter hold another payload; it stays dead until it is replayed, to its subscription only.

        The event gets an id of its own, and names the old one as its cause.

        Args:
            id: the dead letter's id.
            payload: plain data, such as `bus.catalog` reads from the old one.

        Raises:
            ConfigError: when the transport cannot do that.
            LookupError: when there is no such dead letter.
            CodecError, TooLarge: when the payload does not fit the event.
        """
        letter = await self.get(id)
        if letter is None:
            raise UnknownSubscription(f"there is no dead letter {id}: it may have been replayed or discarded")
        store = await self._store(letter.subscription)
        if not isinstance(store, Amending):
            raise ConfigError("this transport cannot amend dead letters: publish the event again, and discard this one")
        envelope = self._catalog.amended(letter.envelope, payload)
        if not await store.amend(letter.subscription, letter.id, envelope):
            raise UnknownSubscription(f"there is no dead letter {id} any more")
        await self._journal.note("dead.amend", letter.subscription, detail=str(letter.id), result=str(envelope.id))
        return msgspec.structs.replace(letter, envelope=envelope)

    async def get(self, id: UUID) -> DeadLetter | None:  # noqa: A002 - the word of the public API
        """The dead letter of this id; an event's id is fine where only one subscription buried it."""
        for place in (None, *self._elsewhere):
            if found := await self.list(place, limit=1, ids=(id,)):
                return found[0]
        return None

    async def count(self, subscription: str | None = None, **query: Any) -> int:
        """How many match."""
        return sum([1 async for _ in self.each(subscription, **query)])

    async def replay(
        self,
        subscription: str,
        ids: Sequence[UUID] | None = None,
        *,
        progress: Callable[[int], None] | None = None,
        force: bool = False,
        **query: Any,
    ) -> int:
        """Make dead letters ready again, for their subscription only and with no attempt spent; return how many.

        Args:
            subscription: whose.
            ids: these; None means all that match `query`.
            progress: told the number done after each chunk.
            force: also those whose effects a transactional subscriber has committed, which then happen twice.
            query: fields of `DeadQuery`, and `group`.

        Raises:
            PostbusError: when some are marked as done, and `force` is not given; nothing was replayed.
        """
        store = await self._store(subscription)
        own = store if isinstance(store, Remembering) else None
        marks = own if subscription in self._elsewhere else self._marks or own
        if marks is not None:
            chosen = query if ids is None else {**query, "ids": tuple(ids)}
            await self._unmark(marks, subscription, chosen, force=force)
        done = await self._move(store.replay, subscription, ids, progress, query)
        await self._note("dead.replay", subscription, done, ids, query)
        return done

    async def discard(
        self,
        subscription: str,
        ids: Sequence[UUID] | None = None,
        *,
        progress: Callable[[int], None] | None = None,
        **query: Any,
    ) -> int:
        """Delete dead letters for good; arguments as of `replay`; return how many."""
        store = await self._store(subscription)
        done = await self._move(store.discard, subscription, ids, progress, query)
        await self._note("dead.discard", subscription, done, ids, query)
        return done

    async def _unmark(self, marks: Remembering, subscription: str, query: dict[str, Any], *, force: bool) -> None:
        """A replay of what is done would run nothing: take the marks away, or say so."""
        chosen = {letter.envelope.id async for letter in self.each(subscription, **query)}
        done = await marks.done(subscription, sorted(chosen)) if chosen else set()
        if done and not force:
            raise PostbusError(
                f"{len(done)} of {len(chosen)} events were handled by {subscription!r} before, such as {min(done)}: "
                f"discard their dead letters, or replay with force=True (--force) to have the effects twice"
            )
        if done:
            await marks.forget(subscription, sorted(done))

    async def _note(
        self, what: str, subscription: str, done: int, ids: Sequence[UUID] | None, query: dict[str, Any]
    ) -> None:
        detail = query_text({**query, "ids": ids})
        await self._journal.note(what, subscription, detail=detail, result=f"{done} dead letters")

    async def _move(
        self,
        act: Callable[[str, Sequence[UUID]], Awaitable[int]],
        subscription: str,
        ids: Sequence[UUID] | None,
        progress: Callable[[int], None] | None,
        query: dict[str, Any],
    ) -> int:
        """Decide on all of them first: a letter that is buried again meanwhile must not be replayed twice."""
        if ids is not None:
            query["ids"] = tuple(ids)
        chosen = [letter.id async for letter in self.each(subscription, **query)]
        return await by_chunks(act, subscription, chosen, progress)

    def _with_bytes(self, letter: DeadLetter) -> DeadLetter:
        envelope = sealed(self._catalog, letter.envelope, letter.event)
        return letter if envelope is letter.envelope else msgspec.structs.replace(letter, envelope=envelope, event=None)


def _query(fields: dict[str, Any]) -> DeadQuery:
    return DeadQuery(**{**fields, **({"ids": tuple(fields["ids"])} if fields.get("ids") is not None else {})})
