"""Keeps the registry: reads it, changes it if nobody else did meanwhile, and makes topics know subscriptions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import msgspec

from ...errors import ConfigError, TransportError
from ...transport import Conflict, SubscriptionSpec
from .line import Line, said
from .registry import Change, Keys, Record, Registry, fingerprint, lua_wants
from .scripts import ENROLL, READ, REGISTRY, RETIRE, TRIM

__all__ = ["Office", "TopicState"]

# Others change the registry too; one of them succeeds each time.
_TRIES = 200


class TopicState:
    """What a publisher knows of a topic: its version, and how many subscriptions take each name."""

    __slots__ = ("routes", "version")

    def __init__(self, version: bytes, routes: Mapping[str, int]) -> None:
        self.version = version
        self.routes = routes


class Office:
    """The registry, and the last state of it that was read."""

    def __init__(self, line: Line, keys: Keys, retain: float | None) -> None:
        self._line = line
        self._retain: Any = "" if retain is None else round(retain * 1000)
        self.keys = keys
        self._known: Registry | None = None
        self._declared: dict[str, bytes] = {}
        self._topics: dict[str, TopicState] = {}
        self._strange: dict[str, set[str]] = {}  # topics whose publishers wait until they are introduced
        self._introducing = asyncio.Lock()

    # -- read

    @property
    def last(self) -> Registry | None:
        """The registry as it was last read, if it was."""
        return self._known

    async def registry(self) -> Registry:
        """The registry as it was last read."""
        return self._known or await self.refresh()

    async def refresh(self) -> Registry:
        """The registry as it is."""
        reply = said(await self._line.run(READ, self.keys.registry, ()), self._line.door)
        self._known = Registry(reply)
        return self._known

    # -- changed

    async def _write(
        self, registry: Registry, number: int, records: Mapping[int, Record | None], names: Iterable[str] = ()
    ) -> bool:
        """Whether the registry was still as it was read, and is changed now."""
        listed = list(names)
        args: list[object] = [registry.revision, number, len(listed), *listed]
        for key, record in records.items():
            args += (key, b"" if record is None else msgspec.json.encode(record))
        reply = said(await self._line.run(REGISTRY, self.keys.registry, args), self._line.door)
        return bool(reply)

    async def declare(self, specs: Sequence[SubscriptionSpec], *, newest: bool) -> Sequence[Conflict]:
        """See `Transport.declare`."""
        for _ in range(_TRIES):
            registry = await self.refresh()
            change = registry.declared(specs, newest=newest, now=time.time(), known=self._declared)
            if registry.revision and not change.records:
                break
            if await self._write(registry, change.number, change.records):
                break
        else:
            raise TransportError("the registry of subscriptions changes too often")
        registry = await self.refresh()
        await self._enroll(registry, specs, change)
        for spec in specs:
            self._declared[spec.name] = registry.epoch
        return change.conflicts

    async def _enroll(self, registry: Registry, specs: Sequence[SubscriptionSpec], change: Change) -> None:
        names = {spec.name for spec in specs} - {conflict.subscription for conflict in change.conflicts}
        records = [registry.by_name[name] for name in sorted(names) if name in registry.by_name]
        places = [(record, topic) for record in records for topic in registry.topics(record)]
        earliest = {topic for record, topic in places if record.number in change.records and record.start == "0"}
        if earliest:
            trims = [(TRIM, [self.keys.stream(topic)], [self._retain, 0, "1"]) for topic in sorted(earliest)]
            await self._line.run_each(*trims)
        await self.make_known(places)

    async def make_known(self, places: Sequence[tuple[Record, str]], start: str | None = None) -> None:
        """Make topics know subscriptions as they are declared now; where they do already, nothing happens."""
        for begin in range(0, len(places), 200):
            scripts = [
                (ENROLL, [self.keys.stream(topic)], _enrolment(record, topic, start or record.start))
                for record, topic in places[begin : begin + 200]
            ]
            for reply in await self._line.run_each(*scripts):
                said(reply, self._line.door)

    async def repair(self, name: str) -> Record:
        """A topic does not know the subscription, or its group is gone: begin with all that is stored there.

        Raises:
            UnknownSubscription: when the registry does not know it either.
        """
        registry = await self.refresh()
        record = registry.record(name)
        await self.make_known([(record, topic) for topic in registry.topics(record)], "0")
        return record

    async def _change(self, name: str, **fields: object) -> Record:
        for _ in range(_TRIES):
            registry = await self.refresh()
            record = msgspec.structs.replace(registry.record(name), **fields)
            if await self._write(registry, registry.number, {record.number: record}):
                return (await self.refresh()).records.get(record.number, record)
        raise TransportError("the registry of subscriptions changes too often")

    async def pause(self, name: str, *, paused: bool) -> None:
        """Refuse or allow claims."""
        record = await self._change(name, paused=paused)
        registry = await self.registry()
        await self.make_known([(record, topic) for topic in registry.topics(record)])

    async def rename(self, name: str, to: str) -> None:
        """Give a subscription a new name."""
        for _ in range(_TRIES):
            registry = await self.refresh()
            record = registry.record(name)
            if name == to:
                return
            if to in registry.by_name:
                raise ConfigError(f"{name!r} cannot be renamed to {to!r}: that name is taken; retire it first")
            spec = replace(record.spec, name=to)
            meaning = fingerprint(spec)
            made = msgspec.structs.replace(record, spec=spec, current=meaning, seen=(*record.seen, meaning))
            if await self._write(registry, registry.number, {record.number: made}):
                await self.refresh()
                return
        raise TransportError("the registry of subscriptions changes too often")

    async def retire(self, name: str) -> tuple[Record, Sequence[str]]:
        """Take a subscription out of the registry; return it and its topics, which still hold what it had."""
        for _ in range(_TRIES):
            registry = await self.refresh()
            record = registry.record(name)
            topics = registry.topics(record)
            if await self._write(registry, registry.number, {record.number: None}):
                await self.refresh()
                self._declared.pop(name, None)
                return record, topics
        raise TransportError("the registry of subscriptions changes too often")

    async def forget(self, record: Record, topics: Sequence[str]) -> None:
        """Delete what a retired subscription had."""
        scripts = [(RETIRE, [self.keys.stream(topic)], [record.number]) for topic in topics]
        if scripts:
            for reply in await self._line.run_each(*scripts):
                said(reply, self._line.door)

    # -- what publishers know

    async def topic(self, topic: str, names: Collection[str]) -> TopicState:
        """How a topic routes these names, which it knows from now on."""
        state = self._topics.get(topic)
        if state is not None and all(name in state.routes for name in names):
            return state
        self._strange.setdefault(topic, set()).update(names)
        async with self._introducing:
            state = self._topics.get(topic)
            if state is None or not all(name in state.routes for name in names):
                await self._introduce_all(topic, names)
        return self._topics[topic]

    def known_topic(self, topic: str) -> TopicState | None:
        """How a topic routes the names that it knows, if that is known here."""
        return self._topics.get(topic)

    async def is_current(self, topic: str, state: TopicState) -> bool:
        """Whether the topic's version is still that of this state."""
        return (await self._versions([topic]))[topic] == state.version

    def forget_topic(self, topic: str) -> None:
        """Its version is another one by now."""
        self._topics.pop(topic, None)

    async def _introduce_all(self, topic: str, names: Collection[str]) -> None:
        """Introduce the topic, and with it those that others wait for: the registry has one writer at a time."""
        strange, self._strange = self._strange, {}
        try:
            await self._introduce({**strange, topic: strange.get(topic, set()) | set(names)})
        except TransportError:
            if not strange.keys() - {topic}:
                raise
            await self._introduce({topic: set(names)})  # it may be another one's server that is away

    async def _introduce(self, topics: Mapping[str, Set[str]]) -> None:
        """First the registry knows the names, then each topic those who take them.

        So whoever declares reads the names, or is read here.  The version is read before the routes and once more
        behind them, so that they belong together.
        """
        await self._add_names(topics)
        rest = dict(topics)
        for _ in range(_TRIES):
            versions = await self._versions(rest)
            registry = await self.refresh()
            known = {topic: registry.names.get(topic, set()) | names for topic, names in rest.items()}
            takers = {
                (record.number, topic): record
                for topic, names in known.items()
                for name in names
                for record in registry.takers(name, topic)
            }
            await self.make_known([(record, topic) for (_, topic), record in takers.items()])
            for topic, version in (await self._versions(rest)).items():
                if version == versions[topic]:
                    routes = {name: len(registry.takers(name, topic)) for name in known[topic]}
                    self._topics[topic] = TopicState(version, routes)
                    del rest[topic]
            if not rest:
                return
        raise TransportError(f"the subscriptions of topic {min(rest)!r} change too often")

    async def _add_names(self, topics: Mapping[str, Set[str]]) -> None:
        for _ in range(_TRIES):
            registry = await self.refresh()
            fresh = [
                f"{topic}/{name}"
                for topic, names in sorted(topics.items())
                for name in sorted(names - registry.names.get(topic, set()))
            ]
            if not fresh or await self._write(registry, registry.number, {}, fresh):
                return
        raise TransportError("the registry of subscriptions changes too often")

    async def _versions(self, topics: Iterable[str]) -> dict[str, bytes]:
        names = list(topics)
        scripts = [(ENROLL, [self.keys.stream(topic)], ["", "", "", "", "", ""]) for topic in names]
        replies = await self._line.run_each(*scripts)
        return {topic: bytes(said(reply, self._line.door)) for topic, reply in zip(names, replies, strict=True)}


def _enrolment(record: Record, topic: str, start: str) -> list[object]:
    spec = record.spec
    flags = ("1" if flag else "0" for flag in (spec.ordered, spec.on_bury == "park", record.paused))
    return [record.number, lua_wants(spec, topic), *flags, start]
