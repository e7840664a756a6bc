"""Events come in: each batch is one call of `append`, which stores them and fans them out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from ...errors import PublishFailed, PublishUnknown
from ...transport import Append, Duplicate, Outgoing, Refused, Unknown
from .line import AnswerLost, Line, Refusal, Unreachable
from .routing import Registry, Routing
from .schema import Tables

__all__ = ["Appending", "Batch", "Statements"]

_DUPLICATE = Duplicate()
_encode = msgspec.json.encode


class Batch:
    """Some events as arguments of `append`, routed as of one revision."""

    def __init__(self, items: Sequence[Outgoing], routing: Routing, retain: float | None) -> None:
        self.results: list[Append] = [_DUPLICATE] * len(items)
        self.rung: set[int] = set()
        self._places: list[int] = []
        self._kinds: dict[tuple[str, str, int, str], int] = {}
        self._kind_rows: tuple[list[str], list[str], list[int], list[str], list[int]] = ([], [], [], [], [])
        self._pairs: tuple[list[int], list[int]] = ([], [])
        self._routing = routing
        self._retain = retain
        self._columns = self._routed(items)

    def _routed(self, items: Sequence[Outgoing]) -> list[Any]:
        seen: set[bytes] = set()
        chosen: list[Outgoing] = []
        kinds: list[int] = []
        for place, item in enumerate(items):
            envelope = item.envelope
            if envelope.id_bytes in seen:
                continue
            route = self._routing.route(envelope.name, envelope.topic)
            if item.require_subscription and not route.ids:
                self.results[place] = _unrouted(item)
                continue
            seen.add(envelope.id_bytes)
            kinds.append(self._kind(item))
            chosen.append(item)
            self._places.append(place)
            self.rung.update(route.ids)
            self.results[place] = route.stored
        envelopes = [item.envelope for item in chosen]
        return [
            [e.id_bytes.hex() for e in envelopes],
            kinds,
            [e.key for e in envelopes],
            [e.micros for e in envelopes],
            [e.body for e in envelopes],
            _if_any([e.expires_micros for e in envelopes]),
            _if_any([_encode(e.header_map).decode() if e.header_map else None for e in envelopes]),
            _if_any([item.delay if item.delay > 0 else None for item in chosen]),
        ]

    def _kind(self, item: Outgoing) -> int:
        """The number, from 1, of this event's name, topic, version and format."""
        envelope = item.envelope
        kind = (envelope.name, envelope.topic, envelope.version, envelope.format)
        number = self._kinds.get(kind)
        if number is None:
            number = self._kinds[kind] = len(self._kinds) + 1
            ids = self._routing.route(envelope.name, envelope.topic).ids
            for column, value in zip(self._kind_rows, (*kind, len(ids)), strict=True):
                column.append(value)  # type: ignore[attr-defined]
            self._pairs[0].extend([number] * len(ids))
            self._pairs[1].extend(ids)
        return number

    @property
    def call(self) -> tuple[bool, list[Any]]:
        """Whether one event is all there is, and the arguments for that or for many."""
        head = [self._routing.revision, self._retain]
        if len(self._places) != 1:
            return False, [*head, *self._kind_rows, *self._pairs, *self._columns]
        name, topic, version, format_, _ = (column[0] for column in self._kind_rows)
        id_, _, *rest = (None if column is None else column[0] for column in self._columns)
        return True, [*head, name, topic, version, format_, self._pairs[1], id_, *rest]

    def answered(self, new: Sequence[int]) -> list[Append]:
        """What became of each, when these (from 1) were new."""
        if len(new) < len(self._places):
            for number in set(range(1, len(self._places) + 1)).difference(new):
                self.results[self._places[number - 1]] = _DUPLICATE
        return self.results


class Statements:
    """What a batch is called with."""

    def __init__(self, tables: Tables) -> None:
        self.one = tables(
            "SELECT postbus.append_one(%s, %s, %s, %s, %s::integer, %s, %s::integer[], %s::uuid, %s, %s, %s, %s, %s, "
            "%s::double precision)"
        )
        self.many = tables(
            "SELECT postbus.append(%s, %s, %s::text[], %s::text[], %s::integer[], %s::text[], %s::integer[], "
            "%s::integer[], %s::integer[], %s::uuid[], %s::integer[], %s::text[], %s::bigint[], %s::bytea[], "
            "%s::bigint[], %s::text[], %s::double precision[])"
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
        ring: Callable[[Collection[int]], None],
    ) -> None:
        self._line = line
        self._registry = registry
        self._retain = retain
        self._patience = patience
        self._ring = ring
        self.statements = Statements(tables)

    async def append(self, items: Sequence[Outgoing]) -> list[Append]:
        """Store events; one result for each."""
        result: Append
        try:
            return await self._try(items)
        except Unreachable as error:
            result = Refused(PublishFailed(f"not stored: {error}"))
        except AnswerLost as error:
            result = Unknown(PublishUnknown(f"{error}; it may be stored: publish again with the same id"))
        except (Refusal, UnicodeEncodeError) as error:
            if len(items) > 1 and (isinstance(error, UnicodeEncodeError) or error.unstorable):
                # the others are not to suffer for one that no column can hold
                return [one for item in items for one in await self.append([item])]
            result = Refused(PublishFailed(f"not stored: {error}"))
        return [result] * len(items)

    async def _try(self, items: Sequence[Outgoing]) -> list[Append]:
        routing = await self._registry.routing()
        for _ in range(10):
            batch = Batch(items, routing, self._retain)
            try:
                one, values = batch.call
                sql = self.statements.one if one else self.statements.many
                ((new,),) = await self._line.ask(sql, values, patience=self._patience)
            except Refusal as error:
                if not error.again:
                    raise
                continue
            if new is not None:
                if new:
                    self._ring(batch.rung)
                return batch.answered(new)
            routing = await self._registry.read()
        raise Refusal("subscriptions are declared faster than events can be routed")


def _if_any(values: list[Any]) -> list[Any] | None:
    return None if all(value is None for value in values) else values


def _unrouted(item: Outgoing) -> Refused:
    envelope = item.envelope
    return Refused(
        PublishFailed(
            f"no subscription takes {envelope.name!r} (topic {envelope.topic!r}): declare one first, "
            f"or publish without require_subscription"
        )
    )
