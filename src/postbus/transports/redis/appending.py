"""Appends: one script for each topic of a batch, and what its answer or its silence means."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import OutOfMemoryError, ResponseError

from ...address import Settings
from ...errors import NotAccepted, PublishFailed, PublishUnknown, TransportError, TransportFull
from ...transport import Append, Duplicate, Outgoing, Refused, Stored, Unknown
from .line import AnswerLost, Line
from .office import Office, TopicState
from .registry import Keys
from .replicas import Replicas
from .scripts import APPEND
from .settling import ms_after
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

# The server writes to those it owes a reply in turn, the last one first.  With a reply owed to us before the script
# rings, a worker that waits is told of the event before we are told that it is stored: a write sooner.
_OWED = (("PING",),)


class Appending:
    """Stores events."""

    def __init__(self, line: Line, office: Office, settings: Settings, replicas: Replicas) -> None:
        self._line = line
        self._replicas = replicas
        self._office = office
        self._keys: Keys = office.keys
        self._patience = settings.publish_timeout * _SHARE
        self._stored: dict[int, Stored] = {}
        self._places: dict[str, tuple[int, tuple[str, ...]]] = {}

    async def append(self, items: Sequence[Outgoing]) -> Sequence[Append]:
        """One result for each."""
        if len(items) == 1:
            result = await self._append_one(items[0])
            if result is not None:
                return (result,)
        if len({item.envelope.log for item in items}) == 1:
            return await self._append(items[0].envelope.log, items)
        topics: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            topics.setdefault(item.envelope.log, []).append(place)
        results: list[Append] = [_DUPLICATE] * len(items)
        batches = [[items[place] for place in places] for places in topics.values()]
        found = await asyncio.gather(*(self._append(t, batch) for t, batch in zip(topics, batches, strict=True)))
        for places, answers in zip(topics.values(), found, strict=True):
            for place, answer in zip(places, answers, strict=True):
                results[place] = answer
        return results

    async def _append_one(self, item: Outgoing) -> Append | None:
        """The straight way of an event that comes alone; None where it is not open, and nothing was stored."""
        envelope = item.envelope
        topic, own = envelope.log, _bucket(envelope.id_bytes)
        state = self._office.known_topic(topic)
        routes = None if state is None else state.routes.get(envelope.name)
        if state is None or routes is None or not own or self._replicas or (item.require_subscription and not routes):
            return None
        args = (state.version, "one", envelope.id_bytes, *_words((item,)))
        try:
            reply = await self._line.run(APPEND, self._place(topic, own), args, before=_OWED, patience=self._patience)
        except AnswerLost as error:
            return _unknown(f"{error}; it may be stored")
        except TransportError as error:
            return _unsent(error)
        if isinstance(reply, ResponseError):
            return _judged(reply)
        if isinstance(reply, list):
            self._office.forget_topic(topic)
            return None
        return self._answer(routes) if reply == b"1" else _DUPLICATE

    async def _append(self, topic: str, items: Sequence[Outgoing]) -> list[Append]:
        names = {item.envelope.name for item in items}
        try:
            for _ in range(_TRIES):
                state = await self._office.topic(topic, names)
                results = await self._try(topic, state, items)
                if results is not None:
                    return results
                self._office.forget_topic(topic)
        except TransportError as error:
            return [_unsent(error) for _ in items]
        return [_refused(f"not stored: the subscriptions of topic {topic!r} change too often") for _ in items]

    async def _try(self, topic: str, state: TopicState, items: Sequence[Outgoing]) -> list[Append] | None:
        """Results, or None when the topic's routes are others by now, and nothing was stored."""
        wanted = [item for item in items if not item.require_subscription or state.routes[item.envelope.name]]
        answers = ""
        if not wanted and not await self._office.is_current(topic, state):
            return None
        if wanted:
            keys, args = self._request(topic, state.version, wanted)
            missing = ""
            try:
                if self._replicas:
                    reply, missing = await self._replicas.run(self._line, APPEND, keys, args, self._patience)
                else:
                    reply = await self._line.run(APPEND, keys, args, patience=self._patience)
            except AnswerLost as error:
                return [_unknown(f"{error}; it may be stored") for _ in items]
            if isinstance(reply, ResponseError):
                return [_judged(reply) for _ in items]
            if isinstance(reply, list):
                return None
            if missing:
                return [_unknown(f"the server has it, and {missing}") for _ in items]
            answers = reply.decode()
        return self._results(state, items, answers)

    def _request(self, topic: str, version: bytes, items: Sequence[Outgoing]) -> tuple[Sequence[Any], list[Any]]:
        tag = self._keys.tag(topic)
        ids = [item.envelope.id_bytes for item in items]
        own = _one_bucket(ids)
        if own and len(set(ids)) == len(ids):
            names = {item.envelope.name for item in items}
            alike = len(names) == 1 and not any(item.delay > 0 for item in items)
            words = [names.pop(), *_bodies(items)] if alike else _words(items)
            return self._place(topic, own), [version, "alike" if alike else "same", len(ids), *ids, *words]
        buckets: dict[int, int] = {}
        sets = [buckets.setdefault(own, len(buckets) + 1) if (own := _bucket(one)) else 0 for one in ids]
        args: list[Any] = [version, "mixed", len(ids), *ids]
        for item, number in zip(items, sets, strict=True):
            args += (*_words((item,)), number)
        return [f"{tag}:s", f"{tag}:c", f"{tag}:i", f"{tag}:y", *(f"{tag}:i:{own}" for own in buckets)], args

    def _place(self, topic: str, own: int) -> Sequence[str]:
        """The keys of a batch whose ids are all of one set."""
        known, keys = self._places.get(topic, (0, ()))
        if known != own:
            tag = self._keys.tag(topic)
            keys = (f"{tag}:s", f"{tag}:c", f"{tag}:i", f"{tag}:y", f"{tag}:i:{own}")
            self._places[topic] = own, keys
        return keys

    def _results(self, state: TopicState, items: Sequence[Outgoing], answers: str) -> list[Append]:
        if len(answers) == len(items) and "0" not in answers and len(kinds := {i.envelope.name for i in items}) == 1:
            return [self._answer(state.routes[kinds.pop()])] * len(items)
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


def _words(items: Sequence[Outgoing]) -> list[Any]:
    """What the script is told of events, one after the other."""
    words: list[Any] = []
    for item in items:
        envelope, delay = item.envelope, item.delay
        words += (envelope.name, envelope.key or "", pack(envelope), "" if delay <= 0 else ms_after(delay))
    return words


def _bodies(items: Sequence[Outgoing]) -> list[Any]:
    """What differs between events of one name."""
    words: list[Any] = []
    for item in items:
        envelope = item.envelope
        words += (envelope.key or "", pack(envelope))
    return words


def _one_bucket(ids: Sequence[bytes]) -> int:
    """The bucket of all of them, which lies between that of the least and the greatest; 0 where they have several."""
    versions = b"".join(ids)[6::16]
    if min(versions) < 0x70 or max(versions) > 0x7F:
        return 0
    own = _bucket(min(ids))
    return own if own == _bucket(max(ids)) else 0


def _bucket(event_id: bytes) -> int:
    """The five minutes that an id of version 7 says it is of; 0 for any other id."""
    return int.from_bytes(event_id[:6], "big") // _BUCKET + 1 if event_id[6] >> 4 == 7 else 0


def _judged(error: ResponseError) -> Append:
    if _is_full(error):
        return _full(str(error))
    if type(error) is not ResponseError or str(error).startswith(_UNDONE):
        return _refused(f"not stored: the server refused: {error}")
    return _unknown(f"the server failed: {error}; it may be stored")


def _unsent(error: TransportError) -> Refused:
    """Nothing of it was sent."""
    return _full(str(error)) if _is_full(error.__cause__) else _refused(f"not stored: {error}")


def _is_full(error: BaseException | None) -> bool:
    """Before Redis 7 a script's error has the reason in its text."""
    return isinstance(error, OutOfMemoryError) or (isinstance(error, ResponseError) and "OOM" in str(error)[:200])


def _full(text: str) -> Refused:
    return Refused(TransportFull(f"not stored: the server has no room (maxmemory): {text}"))


def _unknown(text: str) -> Unknown:
    return Unknown(PublishUnknown(f"{text}: publish again with the same id"))


def _refused(text: str) -> Refused:
    return Refused(PublishFailed(text))


def _unwanted(item: Outgoing) -> Refused:
    return Refused(
        NotAccepted(
            f"no subscription takes {item.envelope.name!r} of topic {item.envelope.topic!r}: declare a subscriber for "
            f"it, or publish without require_subscription"
        )
    )
