"""Who wants what: the subscriptions and names of a namespace, as they were read, and how declarations change them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import msgspec

from ...envelope import split_log
from ...errors import TransportBroken, UnknownSubscription
from ...event import is_pattern, topic_of
from ...transport import Conflict, SubscriptionSpec
from .wire import pairs

__all__ = ["Change", "Keys", "Record", "Registry", "fingerprint", "lua_wants", "topics_of"]


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of keys.  Those of one topic share a slot, those of the registry another."""

    namespace: str

    @property
    def registry(self) -> tuple[str, str, str]:
        """Revision and numbers; subscriptions by number; names, each behind its topic."""
        tag = f"{{{self.namespace}}}"
        return f"{tag}:registry", f"{tag}:subscriptions", f"{tag}:names"

    @property
    def workers(self) -> str:
        """Workers by owner."""
        return f"{{{self.namespace}}}:workers"

    @property
    def bell(self) -> str:
        """The channel of the doorbell."""
        return f"{{{self.namespace}}}:bell"

    def journal(self, kind: str) -> tuple[str, str, str]:
        """What is remembered of one kind: places, bodies by place, places behind their subject."""
        own = f"{{{self.namespace}}}:journal:{kind.replace(' ', '-')}"
        return own, f"{own}:b", f"{own}:s"

    def tag(self, topic: str) -> str:
        """What all keys of a topic begin with."""
        return f"{{{self.namespace}/{topic}}}"

    def stream(self, topic: str) -> str:
        """The topic's log."""
        return f"{{{self.namespace}/{topic}}}:s"


class Record(msgspec.Struct, frozen=True):
    """A subscription as the registry holds it.

    Attributes:
        number: names its keys; never used again.
        id: never changes either, and is for people.
        current: the fingerprint of `spec`; `seen` those of all declarations so far.
        topics: those it was made known to, whatever it wants now.
        start: where its groups begin in topics that do not know it yet: '0' is all that is stored.
    """

    number: int
    id: str
    spec: SubscriptionSpec
    current: str
    seen: tuple[str, ...]
    paused: bool
    declared_at: float
    topics: tuple[str, ...] = ()
    start: str = "$"

    @property
    def name(self) -> str:
        """Its name now."""
        return self.spec.name


_record = msgspec.json.Decoder(Record)

# Of the keys and the registry.  What only adds to them leaves it as it is.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Change:
    """What declarations do to the registry."""

    records: dict[int, Record | None] = field(default_factory=dict)
    number: int = 0
    conflicts: list[Conflict] = field(default_factory=list)


class Registry:
    """The registry as of one revision; empty where there is none."""

    def __init__(self, reply: Sequence[Any]) -> None:
        (epoch, revision, number, written), raw_records, raw_names = reply
        if int(written or FORMAT) > FORMAT:
            raise TransportBroken(
                f"the keys are of format {int(written)}, and this postbus knows {FORMAT}: upgrade it, or give it a "
                f"namespace of its own"
            )
        self.epoch: bytes = epoch or b""
        self.revision: bytes = revision or b""
        self.number = int(number or 0)
        records = (_record.decode(raw) for raw in pairs(raw_records).values())
        self.records = {record.number: record for record in sorted(records, key=lambda r: r.number)}
        self.by_name = {record.name: record for record in self.records.values()}
        self.names: dict[str, set[str]] = {}
        for raw in raw_names:
            topic, _, name = raw.decode().partition("/")
            self.names.setdefault(topic, set()).add(name)
        self._topics: dict[int, tuple[str, ...]] = {}
        self._at: dict[str, tuple[str, ...]] = {}

    def record(self, name: str) -> Record:
        """Return the subscription of this name.

        Raises:
            UnknownSubscription: when there is none.
        """
        try:
            return self.by_name[name]
        except KeyError:
            have = f"there are {', '.join(sorted(self.by_name))}" if self.by_name else "there are none"
            raise UnknownSubscription(f"no subscription is named {name!r}: {have}") from None

    def topics(self, record: Record) -> tuple[str, ...]:
        """The topics that may hold something for it."""
        found = self._topics.get(record.number)
        if found is None:
            found = self._topics[record.number] = topics_of(record.spec, self.names, record.topics)
        return found

    def at(self, topic: str) -> tuple[str, ...]:
        """The names of the subscriptions at a topic."""
        found = self._at.get(topic)
        if found is None:
            found = tuple(r.name for r in self.records.values() if topic in self.topics(r))
            self._at[topic] = found
        return found

    def takers(self, name: str, topic: str) -> list[Record]:
        """The subscriptions that take an event."""
        return [record for record in self.records.values() if record.spec.takes(name, topic)]

    def declared(
        self, specs: Iterable[SubscriptionSpec], *, newest: bool, now: float, known: Mapping[str, bytes]
    ) -> Change:
        """What these declarations change.  `known` says in which epoch this process declared a name before."""
        change = Change(number=self.number)
        records = dict(self.records)
        number = self.number
        for spec in specs:
            record = _known_as(spec, records)
            meaning = fingerprint(spec)
            if record is None:
                number += 1
                lost = spec.name in known and known[spec.name] != self.epoch
                made = Record(
                    number, str(uuid4()), spec, meaning, (meaning,), paused=False, declared_at=now,
                    start="0" if spec.start == "earliest" or lost else "$",
                )  # fmt: skip
                records[number] = change.records[number] = made
            elif meaning == record.current:
                if record.spec != spec:
                    records[record.number] = change.records[record.number] = _with(record, spec, self)
            elif meaning in record.seen and not newest:
                change.conflicts.append(_conflict(spec, record))
            else:
                seen = (*(s for s in record.seen if s != meaning), meaning)
                made = _with(record, spec, self)
                made = msgspec.structs.replace(made, current=meaning, seen=seen, declared_at=now, start="$")
                records[record.number] = change.records[record.number] = made
        return replace(change, number=number)


def topics_of(spec: SubscriptionSpec, names: Mapping[str, set[str]], more: Iterable[str]) -> tuple[str, ...]:
    """Where events for this declaration are or may come: known topics, and those that its own names say."""
    found = {topic for topic, known in names.items() if any(spec.takes(name, topic) for name in known)}
    hinted = {*spec.topics, *(topic_of(want) for want in spec.wants if not is_pattern(want))}
    if spec.topic is not None:
        hinted = {spec.topic, *(log for log in spec.topics if split_log(log)[0] == spec.topic)}
    return tuple(sorted(found | hinted | set(more)))


def _known_as(spec: SubscriptionSpec, records: Mapping[int, Record]) -> Record | None:
    """By its name, by the name it had, or by having been declared just so before somebody renamed it."""
    by_name = {record.name: record for record in records.values()}
    if spec.name in by_name:
        return by_name[spec.name]
    if spec.was is not None and spec.was in by_name:
        return by_name[spec.was]
    meaning = fingerprint(spec)
    return next((record for record in records.values() if meaning in record.seen), None)


def _with(record: Record, spec: SubscriptionSpec, registry: Registry) -> Record:
    """Declared anew; what it has in its old topics it keeps."""
    return msgspec.structs.replace(record, spec=spec, topics=registry.topics(record))


def fingerprint(spec: SubscriptionSpec) -> str:
    """Of what a declaration means; where its code is does not matter."""
    meaning = (spec.name, sorted(set(spec.wants)), spec.topic, spec.ordered, spec.on_bury)
    return hashlib.sha256(msgspec.msgpack.encode(meaning)).hexdigest()[:32]


def lua_wants(spec: SubscriptionSpec, topic: str) -> str:
    """What a subscription wants of a topic, for the claim script: exact names between newlines, then Lua patterns."""
    if spec.topic is not None and spec.topic != split_log(topic)[0]:
        return json.dumps(["\n\n"])
    exact = sorted({want for want in spec.wants if not is_pattern(want)})
    patterns = sorted({want for want in spec.wants if is_pattern(want)})
    return json.dumps(["\n" + "".join(f"{name}\n" for name in exact), *(_lua_pattern(text) for text in patterns)])


def _lua_pattern(text: str) -> str:
    parts = ["[^.]+" if s == "*" else ".+" if s == ">" else s.replace("-", "%-") for s in text.split(".")]
    return f"^{'%.'.join(parts)}$"


def _conflict(spec: SubscriptionSpec, record: Record) -> Conflict:
    return Conflict(
        spec.name,
        f"the older declaration of {spec.name!r} was not applied: {record.name!r} was declared anew since then, for "
        f"{', '.join(record.spec.wants)}",
    )
