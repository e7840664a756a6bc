"""Appends: one script for each topic of a batch, and what its answer or its silence means."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import OutOfMemoryError, ResponseError

from ...address import Settings
from ...errors import PublishFailed, PublishUnknown, TransportError, TransportFull
from ...transport import Append, Duplicate, Outgoing, Refused, Stored, Unknown
from .line import AnswerLost, Line
from .office import Office, TopicState
from .registry import Keys
from .scripts import APPEND
from .wire import pack

__all__ = ["Appending"]

# Of the publish timeout: so that an answer is definite before the caller gives up.
_SHARE = 0.9
_BUCKET = 300_000
# Declarations may change a topic while a batch is under way; past this many times something is wrong.
_TRIES = 50
# The server refused before it did anything.
_UNDONE = ("OOM", "READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "NOPERM", "NOREPLICAS", "MISCONF", "MOVED", "NOSCRIPT")

_DUPLICATE = Duplicate()


class Appending:
    """Stores events."""

    def __init__(self, line: Line, office: Office, settings: Settings) -> None:
        self._line = line
        self._office = office
        self._keys: Keys = office.keys
        self._patience = settings.publish_timeout * _SHARE
        self._stored: dict[int, Stored] = {}

    async def append(self, items: Sequence[Outgoing]) -> list[Append]:
        """One result for each."""
        topics: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            topics.setdefault(item.envelope.topic, []).append(place)
        if len(topics) == 1:
            return await self._append(next(iter(topics)), items)
        results: list[Append] = [_DUPLICATE] * len(items)
        batches = [[items[place] for place in places] for places in topics.values()]
        found = await asyncio.gather(*(self._append(t, batch) for t, batch in zip(topics, batches, strict=True)))
        for places, answers in zip(topics.values(), found, strict=True):
            for place, answer in zip(places, answers, strict=True):
                results[place] = answer
        return results

    async def _append(self, topic: str, items: Sequence[Outgoing]) -> list[Append]:
        names = {item.envelope.name for item in items}
        try:
            for _ in range(_TRIES):
                state = await self._office.topic(topic, names)
                results = await self._try(topic, state, items)
                if results is not None:
                    return results
                self._office.forget_topic(topic)
        except TransportError as error:  # nothing of the batch was sent
            return [_refused(f"not stored: {error}") for _ in items]
        return [_refused(f"not stored: the subscriptions of topic {topic!r} change too often") for _ in items]

    async def _try(self, topic: str, state: TopicState, items: Sequence[Outgoing]) -> list[Append] | None:
        """Results, or None when the topic's routes are others by now, and nothing was stored."""
        wanted = [item for item in items if not item.require_subscription or state.routes[item.envelope.name]]
        answers = ""
        if not wanted and not await self._office.is_current(topic, state):
            return None
        if wanted:
            keys, args = self._request(topic, state.version, wanted)
            try:
                reply = await self._line.run(APPEND, keys, args, patience=self._patience)
            except AnswerLost as error:
                lost = PublishUnknown(f"{error}; it may be stored: publish again with the same id")
                return [Unknown(lost) for _ in items]
            if isinstance(reply, ResponseError):
                return [_judged(reply) for _ in items]
            if isinstance(reply, list):
                return None
            answers = reply.decode()
        return self._results(state, items, answers)

    def _request(self, topic: str, version: bytes, items: Sequence[Outgoing]) -> tuple[list[Any], list[Any]]:
        tag = self._keys.tag(topic)
        ids = [item.envelope.id_bytes for item in items]
        buckets: dict[int, int] = {}
        sets = [buckets.setdefault(own, len(buckets) + 1) if (own := _bucket(one)) else 0 for one in ids]
        same = len(buckets) == 1 and 0 not in sets and len(set(ids)) == len(ids)
        args: list[Any] = [version, "same" if same else "mixed", len(ids), *ids]
        for item, number in zip(items, sets, strict=True):
            envelope = item.envelope
            delay = "" if item.delay <= 0 else round(item.delay * 1000 + 0.5)
            args += (envelope.name, envelope.key or "", pack(envelope), delay)
            if not same:
                args.append(number)
        return [f"{tag}:s", f"{tag}:c", f"{tag}:i", f"{tag}:y", *(f"{tag}:i:{own}" for own in buckets)], args

    def _results(self, state: TopicState, items: Sequence[Outgoing], answers: str) -> list[Append]:
        results: list[Append] = []
        place = 0
        for item in items:
            routes = state.routes[item.envelope.name]
            if item.require_subscription and not routes:
                results.append(_unwanted(item))
                continue
            results.append(self._answer(routes) if answers[place] == "1" else _DUPLICATE)
            place += 1
        return results

    def _answer(self, routes: int) -> Stored:
        found = self._stored.get(routes)
        if found is None:
            found = self._stored[routes] = Stored(routes)
        return found


def _bucket(event_id: bytes) -> int:
    """The five minutes that an id of version 7 says it is of; 0 for any other id."""
    return int.from_bytes(event_id[:6], "big") // _BUCKET + 1 if event_id[6] >> 4 == 7 else 0


def _judged(error: ResponseError) -> Append:
    if isinstance(error, OutOfMemoryError) or "OOM" in str(error)[:200]:
        return Refused(TransportFull(f"not stored: the server has no room (maxmemory): {error}"))
    if type(error) is not ResponseError or str(error).startswith(_UNDONE):
        return _refused(f"not stored: the server refused: {error}")
    return Unknown(PublishUnknown(f"the server failed: {error}; it may be stored: publish again with the same id"))


def _refused(text: str) -> Refused:
    return Refused(PublishFailed(text))


def _unwanted(item: Outgoing) -> Refused:
    return _refused(
        f"no subscription takes {item.envelope.name!r} of topic {item.envelope.topic!r}: declare a subscriber for it, "
        f"or publish without require_subscription"
    )
