"""What a program declares: which events a function takes, and how a subscriber is to be run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from .clock import Span, seconds
from .errors import ConfigError, InvalidName, UnknownEvent
from .event import Pattern, RawEvent, is_pattern, logs_of, mark_of, valid_name
from .retry import Retry
from .signature import Signature, label_of, read_signature
from .transport import SubscriptionSpec

__all__ = ["Interest", "Subscriber", "What", "read_interest", "read_subscriber"]

What = type[Any] | str


@dataclass(frozen=True, slots=True)
class Interest:
    """Which events a function takes, and as what.

    Attributes:
        types: wire name to class, for what was named by class.
        names: wire names given as text.
        patterns: wildcards.
        raw_type: what events taken by name or pattern are decoded into; `RawEvent` by default.
    """

    types: dict[str, type[Any]]
    names: frozenset[str]
    patterns: tuple[Pattern, ...]
    raw_type: type[Any]

    @property
    def wants(self) -> tuple[str, ...]:
        """All names and patterns, as the transport filters by them."""
        return (*self.types, *sorted(self.names), *(p.text for p in self.patterns))

    def type_for(self, name: str) -> type[Any] | None:
        """The class that an event of this name is decoded into (`RawEvent` included), or None if it is not taken."""
        found = self.types.get(name)
        if found is not None:
            return found
        if name in self.names or any(pattern.matches(name) for pattern in self.patterns):
            return self.raw_type
        return None


def read_interest(what: Sequence[What], signature: Signature, label: str) -> Interest:
    """Which events a function takes: those named, else those of its first parameter's annotation.

    Raises:
        ConfigError: when nothing is named, or something that is neither event class, name nor pattern.
    """
    if signature.unresolved is not None and not (what and all(isinstance(one, type) for one in what)):
        raise ConfigError(
            f"{label} annotates its event as {signature.unresolved!r}, which cannot be found where it is registered: "
            f"import it there, or name the event classes in the decorator"
        )
    if not what:
        what = signature.event_types
        if not what or RawEvent in what:
            raise ConfigError(
                f"{label} does not say which events it takes: name them, as in @bus.on(OrderPlaced) or "
                f"@bus.on('orders.*'), or annotate its first parameter with an event class"
            )
    types: dict[str, type[Any]] = {}
    names: set[str] = set()
    patterns: list[Pattern] = []
    for one in what:
        try:
            match one:
                case type():
                    types[mark_of(one).name] = one
                case str() if is_pattern(one):
                    patterns.append(Pattern(one))
                case str():
                    names.add(valid_name(one, "event name"))
                case _:
                    raise ConfigError(f"{label} cannot take {one!r}: expected an event class, a name or a pattern")
        except (UnknownEvent, InvalidName) as error:
            raise ConfigError(f"{label}: {error}") from error
    return Interest(types, frozenset(names), tuple(patterns), _raw_type(signature, types))


def _raw_type(signature: Signature, types: dict[str, type[Any]]) -> type[Any]:
    """A name or pattern gives `RawEvent`, unless the annotation names one other type to decode into."""
    named = [t for t in signature.event_types if t is not RawEvent and t not in types.values()]
    return named[0] if len(named) == 1 and not types else RawEvent


_ON_BURY: Final = ("continue", "park")
_START: Final = ("new", "earliest")
_ISOLATION: Final = ("thread", "process")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """A subscriber as declared; see `Bus.subscriber` for what each field means."""

    fn: Callable[..., Any]
    signature: Signature
    interest: Interest
    name: str
    was: str | None
    topic: str | None
    retry: Retry
    timeout: float
    concurrency: int
    prefetch: int | None
    ordered: bool
    on_bury: Literal["continue", "park"]
    transactional: bool
    start: Literal["new", "earliest"]
    isolation: Literal["thread", "process"]

    @property
    def label(self) -> str:
        """Where its code is."""
        return label_of(self.fn)

    def spec(self) -> SubscriptionSpec:
        """What the transport is told."""
        marks = [mark_of(event_type) for event_type in self.interest.types.values()]
        topics = {
            log for mark in marks for log in logs_of(mark.topic, mark.partitions) if self.topic in (None, mark.topic)
        }
        if self.topic is not None:
            topics.add(self.topic)
        return SubscriptionSpec(
            name=self.name,
            wants=self.interest.wants,
            topic=self.topic,
            topics=tuple(sorted(topics)),
            ordered=self.ordered,
            on_bury=self.on_bury,
            start=self.start,
            was=self.was,
            handler=self.label,
        )


def read_subscriber(
    fn: Callable[..., Any],
    what: Sequence[What],
    *,
    name: str | None = None,
    was: str | None = None,
    topic: str | None = None,
    retry: Retry | None = None,
    timeout: Span = 60,
    concurrency: int = 10,
    prefetch: int | None = None,
    ordered: bool = False,
    on_bury: str = "continue",
    transactional: bool = False,
    start: str = "new",
    isolation: str = "thread",
) -> Subscriber:
    """Check a subscriber's declaration.

    Raises:
        ConfigError: for whatever would not work later.
    """
    label = label_of(fn)
    signature = read_signature(fn, delivered=True, transactional=bool(transactional))
    interest = read_interest(what, signature, label)
    try:
        durable = valid_name(name if name is not None else _own_name(fn), "subscription name")
        for text, kind in ((was, "subscription name"), (topic, "topic")):
            if text is not None:
                valid_name(text, kind)
    except InvalidName as error:
        raise ConfigError(f"{label}: {error}") from error
    if retry is not None and not isinstance(retry, Retry):
        raise ConfigError(f"subscriber {durable!r} has retry={retry!r}: expected Retry(attempts=..., delay=...)")
    return Subscriber(
        fn=fn,
        signature=signature,
        interest=interest,
        name=durable,
        was=was,
        topic=topic,
        retry=retry or Retry(),
        timeout=seconds(timeout, f"timeout of subscriber {durable!r}", least=0.001),
        concurrency=_count(concurrency, f"concurrency of subscriber {durable!r}", 1),
        prefetch=None if prefetch is None else _count(prefetch, f"prefetch of subscriber {durable!r}", 0),
        ordered=bool(ordered),
        on_bury=_one_of(on_bury, _ON_BURY, f"on_bury of subscriber {durable!r}"),
        transactional=bool(transactional),
        start=_one_of(start, _START, f"start of subscriber {durable!r}"),
        isolation=_one_of(isolation, _ISOLATION, f"isolation of subscriber {durable!r}"),
    )


def _own_name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", None)
    if not isinstance(name, str) or name == "<lambda>":
        raise ConfigError(f"{label_of(fn)} has no name of its own to be known by: pass name='...'")
    return name


def _count(value: int, what: str, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what} is {value!r}: expected a whole number from {least}")
    return value


def _one_of(value: str, known: tuple[Any, ...], what: str) -> Any:
    if value not in known:
        raise ConfigError(f"{what} is {value!r}: expected one of {', '.join(map(repr, known))}")
    return value
