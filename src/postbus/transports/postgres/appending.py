"""Events come in: each batch is one call of `append`, which stores them and fans them out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from ...errors import AccessRefused, NotAccepted, PublishFailed, PublishUnknown, TransportError
from ...transport import Append, Duplicate, Outgoing, Refused, Unknown
from .bell import Bell
from .line import AnswerLost, Line, Refusal, Unreachable
from .routing import Registry, Routing
from .schema import Tables
from .wire import array

__all__ = ["Appending", "Batch", "Statements"]

_DUPLICATE = Duplicate()
# Seconds that must be left to ask once more.
_WORTH_A_TRY = 0.2
_encode = msgspec.json.encode


class Batch:
    """Some events as arguments of `append`, routed as of one revision.

    Attributes:
        results: what becomes of each, when all that were asked for are new.
        rung: the subscriptions that get work by it.
        call: whether one event is all there is, and the arguments for that or for many.
    """

    def __init__(self, items: Sequence[Outgoing], routing: Routing, retain: float | None) -> None:
        self.results: list[Append] = [_DUPLICATE] * len(items)
        self.rung: Collection[int] = ()
        self._places: list[int] = []
        self._routing = routing
        self._retain = retain
        self.call = self._call_of_one(items[0]) if len(items) == 1 else self._call_of_many(items)

    def _call_of_one(self, item: Outgoing) -> tuple[bool, list[Any]]:
        """Plain values, and texts for arrays: client libraries take long over lists."""
        envelope = item.envelope
        route = self._routing.route(envelope.name, envelope.log)
        if item.require_subscription and not route.ids:
            self.results[0] = _unrouted(item)
            return self._call_of_many(())
        self.results[0] = route.stored
        self._places.append(0)
        self.rung = route.ids
        headers = envelope.header_map
        return True, [
            self._routing.revision, self._retain, envelope.name, envelope.log, envelope.version, envelope.format,
            route.ids_text, route.ordered_text, envelope.id_bytes.hex(), envelope.key, envelope.micros, envelope.body,
            envelope.expires_micros, _encode(headers).decode() if headers else None,
            item.delay if item.delay > 0 else None,
        ]  # fmt: skip

    def _call_of_many(self, items: Sequence[Outgoing]) -> tuple[bool, list[Any]]:
        self._kinds: dict[tuple[str, str, int, str], int] = {}
        self._kind_rows: tuple[list[str], list[str], list[int], list[str], list[int]] = ([], [], [], [], [])
        self._pairs: tuple[list[int], list[int], list[bool]] = ([], [], [])
        columns = self._routed(items)
        self.rung = set(self._pairs[1])
        return False, [self._routing.revision, self._retain, *self._kind_rows, *self._pairs, *columns]

    def _routed(self, items: Sequence[Outgoing]) -> list[Any]:
        seen: set[bytes] = set()
        chosen: list[Outgoing] = []
        kinds: list[int] = []
        for place, item in enumerate(items):
            envelope = item.envelope
            if envelope.id_bytes in seen:
                continue
            route = self._routing.route(envelope.name, envelope.log)
            if item.require_subscription and not route.ids:
                self.results[place] = _unrouted(item)
                continue
            seen.add(envelope.id_bytes)
            kinds.append(self._kind(item))
            chosen.append(item)
            self._places.append(place)
            self.results[place] = route.stored
        envelopes = [item.envelope for item in chosen]
        return [
            array([e.id_bytes.hex() for e in envelopes]),
            array(kinds),
            [e.key for e in envelopes],
            array([e.micros for e in envelopes]),
            [e.body for e in envelopes],
            _if_any([e.expires_micros for e in envelopes]),
            _if_any([_encode(e.header_map).decode() if e.header_map else None for e in envelopes]),
            _if_any([item.delay if item.delay > 0 else None for item in chosen]),
        ]

    def _kind(self, item: Outgoing) -> int:
        """The number, from 1, of this event's name, topic, version and format."""
        envelope = item.envelope
        kind = (envelope.name, envelope.log, envelope.version, envelope.format)
        number = self._kinds.get(kind)
        if number is None:
            number = self._kinds[kind] = len(self._kinds) + 1
            route = self._routing.route(envelope.name, envelope.log)
            for column, value in zip(self._kind_rows, (*kind, len(route.ids)), strict=True):
                column.append(value)  # type: ignore[attr-defined]
            self._pairs[0].extend([number] * len(route.ids))
            self._pairs[1].extend(route.ids)
            self._pairs[2].extend(route.ordered)
        return number

    def answered(self, new: Sequence[int] | bool) -> list[Append]:  # noqa: FBT001 - as the server answers
        """What became of each, when these (from 1) were new; or of the only one."""
        if isinstance(new, bool):
            if not new:
                self.results[0] = _DUPLICATE
        elif len(new) < len(self._places):
            for number in set(range(1, len(self._places) + 1)).difference(new):
                self.results[self._places[number - 1]] = _DUPLICATE
        return self.results


class Statements:
    """What a batch is called with."""

    def __init__(self, tables: Tables) -> None:
        self.one = tables(
            "SELECT postbus.append_one(%s, %s, %s, %s, %s::integer, %s, %s::text::integer[], "
            "%s::text::boolean[], %s::uuid, %s, %s, %s, %s, %s, %s::double precision)"
        )
        # One that commits by itself, followed by a NOTIFY.
        self.told = tables(
            "CALL postbus.append_and_notify(%s, %s, %s, %s, %s::integer, %s, %s::text::integer[], "
            "%s::text::boolean[], %s::uuid, %s, %s, %s, %s, %s, %s::double precision, %s, %s, NULL)"
        )
        self.many = tables(
            "SELECT postbus.append(%s, %s, %s::text[], %s::text[], %s::integer[], %s::text[], %s::integer[], "
            "%s::integer[], %s::integer[], %s::boolean[], %s::text::uuid[], %s::text::integer[], %s::text[], "
            "%s::text::bigint[], %s::bytea[], %s::bigint[], %s::text[], %s::double precision[])"
        )


class Appending:
    """The statements of an append."""

    def __init__(
        self,
        line: Line,
        tables: Tables,
        registry: Registry,
        *,
        retain: float | None,
        patience: float,
        bell: Bell,
    ) -> None:
        self._line = line
        self._registry = registry
        self._retain = retain
        self._patience = patience
        self._bell = bell
        self.statements = Statements(tables)

    async def append(self, items: Sequence[Outgoing]) -> list[Append]:
        """Store events; one result for each."""
        result: Append
        until = time.monotonic() + self._patience
        try:
            return await self._try(items, self._patience)
        except (Unreachable, AccessRefused) as error:
            result = Refused(PublishFailed(f"not stored: {error}"))
        except AnswerLost as error:
            return await self._again(items, error, until - time.monotonic())
        except (Refusal, UnicodeEncodeError) as error:
            unstorable = isinstance(error, UnicodeEncodeError) or error.unstorable
            if len(items) > 1 and unstorable:
                # the others are not to suffer for one that no column can hold
                return [one for item in items for one in await self.append([item])]
            result = Refused((NotAccepted if unstorable else PublishFailed)(f"not stored: {error}"))
        return [result] * len(items)

    async def _again(self, items: Sequence[Outgoing], lost: AnswerLost, patience: float) -> list[Append]:
        """An id is stored once, and waits for whoever is storing it: so what was lost is known after asking again."""
        if patience > _WORTH_A_TRY:
            with contextlib.suppress(TransportError):
                return await self._try(items, patience, again=True)
        return [Unknown(PublishUnknown(f"{lost}; it may be stored: publish again with the same id"))] * len(items)

    async def _try(self, items: Sequence[Outgoing], patience: float, *, again: bool = False) -> list[Append]:
        routing = await self._registry.routing()
        for _ in range(10):
            batch = Batch(items, routing, self._retain)
            try:
                new = await self._ask(batch, patience, alone=again)
            except Refusal as error:
                if not error.again:
                    raise
                continue
            if new is not None:
                return batch.results if again else batch.answered(new)
            routing = await self._registry.read()
        raise Refusal("subscriptions are declared faster than events can be routed")

    async def _ask(self, batch: Batch, patience: float, *, alone: bool) -> Any:
        """Which of the batch are new; and ring for them.  `alone`: by a NOTIFY of its own, as what is asked again."""
        one, values = batch.call
        with self._bell.carried(batch.rung if one and not alone else ()) as news:
            if news is None:
                statement = self.statements.one if one else self.statements.many
                ((new,),) = await self._line.ask(statement, values, patience=patience)
            else:
                new = await self._ask_and_tell(values, news, patience)
        if new or (alone and new is not None):
            (self._bell.ring if news is None else self._bell.ring_here)(batch.rung)
        return new

    async def _ask_and_tell(self, values: Sequence[Any], news: tuple[str, str], patience: float) -> bool | None:
        """Store one, and send its NOTIFY behind that.

        What is refused may be the NOTIFY of an event that is stored: asked again without one, its id is known by now.
        """
        try:
            ((new,),) = await self._line.ask(self.statements.told, [*values, *news], patience=patience)
            return bool(new) if new is not None else None
        except Refusal as refusal:
            try:
                ((new,),) = await self._line.ask(self.statements.one, values, patience=patience)
            except Refusal as error:
                if error.unstorable:
                    raise
                raise AnswerLost(str(error)) from refusal
            return None if new is None else True


def _if_any(values: list[Any]) -> list[Any] | None:
    return None if all(value is None for value in values) else values


def _unrouted(item: Outgoing) -> Refused:
    envelope = item.envelope
    return Refused(
        NotAccepted(
            f"no subscription takes {envelope.name!r} (topic {envelope.topic!r}): declare one first, "
            f"or publish without require_subscription"
        )
    )
