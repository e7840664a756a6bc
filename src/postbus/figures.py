"""What a bus measures, by name: counters and histograms of this process, and gauges of what is stored.

The names and labels are part of the product; which system they are shown in is not decided here.  No label is an id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Literal, TypeAlias

import msgspec

from .bus import Bus
from .errors import PostbusError
from .tally import EDGES, Histogram
from .transport import SubscriptionStats, WorkerInfo

__all__ = ["FAMILIES", "Family", "Figures", "Value", "gauges_of", "merged", "packed", "sums_of", "unpacked"]

_Labels: TypeAlias = tuple[str, ...]
# A number, or the counts of a histogram's buckets (see `EDGES`) and the sum of what was counted.
Value: TypeAlias = float | tuple[list[int], float]
# Family to labels to value.
Figures: TypeAlias = dict[str, dict[_Labels, Value]]


@dataclass(frozen=True, slots=True)
class Family:
    """One thing that is measured."""

    kind: Literal["counter", "gauge", "histogram"]
    labels: _Labels
    meaning: str


_EACH = ("topic", "subscription")
_SUB = ("subscription",)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "postbus_published_total": Family("counter", ("topic", "outcome"), "Events published, by what became of it"),
        "postbus_unrouted_total": Family("counter", ("topic",), "Events accepted that no subscription took"),
        "postbus_publish_seconds": Family("histogram", ("topic",), "Time for the store to accept a publish"),
        "postbus_deliveries_total": Family("counter", (*_EACH, "outcome"), "Deliveries settled, by their outcome"),
        "postbus_handler_seconds": Family("histogram", _EACH, "Run time of subscribers"),
        "postbus_delivery_delay_seconds": Family("histogram", _EACH, "From publish to the start of the first attempt"),
        "postbus_incidents_total": Family("counter", ("kind",), "What should be rare, such as lost leases"),
        "postbus_outbox_relayed_total": Family("counter", (), "Events carried from the outbox to the transport"),
        "postbus_in_flight": Family("gauge", _SUB, "Deliveries leased to workers"),
        "postbus_lag_messages": Family("gauge", _SUB, "Deliveries that are ready and not claimed"),
        "postbus_lag_seconds": Family("gauge", _SUB, "Age of the oldest unfinished event that is due"),
        "postbus_retry_scheduled": Family("gauge", _SUB, "Deliveries that wait for another attempt"),
        "postbus_delayed": Family("gauge", _SUB, "Deliveries published with a delay that has not passed"),
        "postbus_dead_letters": Family("gauge", _SUB, "Dead letters"),
        "postbus_parked_keys": Family("gauge", _SUB, "Keys that a dead letter holds"),
        "postbus_paused": Family("gauge", _SUB, "1 where the subscription is paused"),
        "postbus_workers": Family("gauge", _SUB, "Live workers"),
        "postbus_worker_heartbeat_timestamp_seconds": Family("gauge", _SUB, "Newest heartbeat of its workers"),
        "postbus_outbox_pending": Family("gauge", (), "Events that wait to be relayed"),
        "postbus_outbox_oldest_age_seconds": Family("gauge", (), "Age of the oldest event that waits to be relayed"),
        "postbus_up": Family("gauge", (), "1 where the transport answered"),
        "postbus_build_info": Family("gauge", ("version",), "1"),
    }
)

_PUBLISHED = {"stored": "stored", "duplicate": "duplicates", "refused": "refused", "unknown": "unknown"}
_SETTLED = {"ok": "acked", "retry": "retried", "dead": "buried", "snoozed": "snoozed", "released": "released"}
_INCIDENTS = (
    "lease_lost",
    "settle_retries",
    "timeouts",
    "after_commit_errors",
    "heartbeats_late",
    "transport_errors",
    "relay_errors",
    "relay_refused",
    "journal_dropped",
)


def sums_of(bus: Bus) -> Figures:
    """What this process has done since the bus was made.  Costs nothing but this reading; thread-safe."""
    bus.add_up()
    tally, counters = bus.tally, bus.counters.as_dict()
    figures: Figures = {name: {} for name, family in FAMILIES.items() if family.kind != "gauge"}
    for (_, topic), published in list(tally.published.items()):
        for outcome, field in _PUBLISHED.items():
            _add(figures["postbus_published_total"], (topic, outcome), getattr(published, field))
        _add(figures["postbus_unrouted_total"], (topic,), published.unrouted)
    for topic, waited in list(tally.waits.items()):
        figures["postbus_publish_seconds"][topic,] = _histogram(waited)
    for (subscription, topic), runs in list(tally.runs.items()):
        for outcome, field in {**_SETTLED, "lost": "lost"}.items():
            _add(figures["postbus_deliveries_total"], (topic, subscription, outcome), getattr(runs, field))
        figures["postbus_handler_seconds"][topic, subscription] = _histogram(runs.run)
        figures["postbus_delivery_delay_seconds"][topic, subscription] = _histogram(runs.delay)
    figures["postbus_incidents_total"] = {(kind,): counters[kind] for kind in _INCIDENTS}
    figures["postbus_outbox_relayed_total"] = {(): counters["relayed"]}
    return figures


@cache
def _version() -> str:
    return version("postbus")


async def gauges_of(bus: Bus) -> Figures:
    """How everything stands in the store now.  A transport that does not answer is 'down', and no error."""
    figures: Figures = {"postbus_build_info": {(_version(),): 1}}
    try:
        stats, workers = await bus.stats(), await bus.workers()
        outbox = None if bus.outbox is None else await bus.outbox.stats()
    except PostbusError:
        return {**figures, "postbus_up": {(): 0}}
    figures["postbus_up"] = {(): 1}
    for name, read in _STANDING.items():
        figures[name] = {(one.name,): read(one) for one in stats.values()}
    figures["postbus_worker_heartbeat_timestamp_seconds"] = _heartbeats(workers)
    if outbox is not None:
        figures["postbus_outbox_pending"] = {(): outbox.pending}
        figures["postbus_outbox_oldest_age_seconds"] = {(): outbox.oldest_age or 0}
    return figures


def _heartbeats(workers: Iterable[WorkerInfo]) -> dict[_Labels, Value]:
    newest: dict[_Labels, Value] = {}
    for worker in sorted(workers, key=lambda worker: worker.seen_at or worker.started_at):
        for subscription in worker.subscriptions:
            newest[subscription,] = (worker.seen_at or worker.started_at).timestamp()
    return newest


_STANDING: Mapping[str, Callable[[SubscriptionStats], float]] = {
    "postbus_in_flight": lambda one: one.in_flight,
    "postbus_lag_messages": lambda one: one.backlog,
    "postbus_lag_seconds": lambda one: one.oldest_age or 0.0,
    "postbus_retry_scheduled": lambda one: one.retrying,
    "postbus_delayed": lambda one: one.scheduled,
    "postbus_dead_letters": lambda one: one.dead,
    "postbus_parked_keys": lambda one: one.parked,
    "postbus_paused": lambda one: int(one.paused),
    "postbus_workers": lambda one: one.workers,
}


def merged(many: Iterable[Figures]) -> Figures:
    """The figures of several processes: counters and histograms are added up, of gauges the last one holds."""
    whole: Figures = {}
    for figures in many:
        for name, values in figures.items():
            into = whole.setdefault(name, {})
            if FAMILIES[name].kind == "gauge":
                into.clear()
                into.update(values)
                continue
            for labels, value in values.items():
                _add(into, labels, value)
    return whole


def _add(into: dict[_Labels, Value], labels: _Labels, value: Value) -> None:
    known = into.get(labels)
    match known, value:
        case None, _:
            into[labels] = value
        case (list(counts), total), (list(more), further):
            into[labels] = [a + b for a, b in zip(counts, more, strict=True)], total + further
        case ((float() | int()), (float() | int())):
            into[labels] = known + value
        case _:
            raise TypeError(f"{labels} has {known!r} and {value!r}, which do not add up")


def _histogram(histogram: Histogram) -> Value:
    assert len(histogram.counts) == len(EDGES) + 1  # noqa: S101 - what readers rely on
    return list(histogram.counts), histogram.total


_Packed: TypeAlias = dict[str, list[tuple[list[str], float | tuple[list[int], float]]]]


def packed(figures: Figures) -> str:
    """As text, for another process."""
    plain = {name: [(list(labels), value) for labels, value in values.items()] for name, values in figures.items()}
    return msgspec.json.encode(plain).decode()


def unpacked(text: str) -> Figures:
    """What `packed` wrote."""
    plain = msgspec.json.decode(text.encode(), type=_Packed)
    return {name: {tuple(labels): value for labels, value in values} for name, values in plain.items()}
