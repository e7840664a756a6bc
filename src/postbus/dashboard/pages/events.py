"""Stored events, newest first; and one event: what it says, where it stands, what became of it and what it caused."""

from __future__ import annotations

import json
import shlex
from typing import Any
from uuid import UUID

from ..commands import command
from ..payload import as_text, tree_of
from ..shown import shown_of
from ..visit import NoSuchPage, Visit, uuid_of
from .page import Page

__all__ = ["EVENT", "EVENTS"]

# A payload longer than this is looked at, not copied.
_COPIED = 64 * 1024


async def _list(visit: Visit) -> dict[str, Any]:
    query = {
        "id": visit.id("id"),
        "name": visit.event_name("name"),
        "key": visit.key("key"),
        "correlation_id": visit.text("correlation") or None,
    }
    given = {**{name: value for name, value in query.items() if value is not None}, **visit.span.query}
    missed = bool(visit.text("id")) and query["id"] is None
    found = [] if missed else await visit.bus.events.list(limit=visit.limit, after=visit.cursor, **given)
    words = [
        word
        for option, value in (
            ("--name", visit.text("name")), ("--key", visit.text("key")), ("--correlation", visit.text("correlation")),
        )
        if value
        for word in (option, value)
    ] + visit.span.words  # fmt: skip
    return {
        "events": [(stored, _standing(stored.states)) for stored in found],
        "query": {name: visit.text(name) for name in ("id", "name", "key", "correlation")},
        "span": visit.span,
        "filtered": bool(given) or missed,
        "missed": missed,
        "older": visit.here(after=found[-1].cursor) if len(found) == visit.limit else None,
        "newest": visit.here(after="") if visit.text("after") else None,
        "names": sorted(visit.bus.catalog.types()),
        "command": command("events", "list", visit.desk.target, *words),
    }


_ORDER = ("dead", "retrying", "running", "waiting", "ready", "scheduled")


def _standing(states: dict[str, str]) -> list[tuple[str, list[str]]]:
    """State to subscriptions, what needs somebody first."""
    found: dict[str, list[str]] = {}
    for name, state in sorted(states.items()):
        found.setdefault(state, []).append(name)
    return sorted(found.items(), key=lambda pair: _ORDER.index(pair[0]) if pair[0] in _ORDER else len(_ORDER))


async def _one(visit: Visit) -> dict[str, Any]:
    wanted = uuid_of(visit.path("id"))
    if wanted is None:
        raise NoSuchPage(f"{visit.path('id')} is no event's id")
    explained = await visit.bus.explain(wanted)
    envelope = explained.envelope
    if envelope is None and not explained.attempts:
        raise NoSuchPage(f"no event {wanted} is stored: every subscription may be done with it")
    lineage = await visit.bus.lineage(wanted)
    shown = None if envelope is None else shown_of(envelope, visit.bus.catalog, visit.desk.redact)
    text = None if shown is None else as_text(shown.payload)
    return {
        "id": wanted,
        "name": envelope.name if envelope is not None else explained.attempts[0].event_name,
        "envelope": envelope,
        "explained": explained,
        "timelines": _timelines(explained),
        "shown": shown,
        "tree": None if shown is None else tree_of(shown.payload),
        "payload_text": text if text is not None and len(text) <= _COPIED else None,
        "lineage": lineage,
        "command": command("trace", visit.desk.target, str(wanted)),
        "publish_command": _publish(visit, wanted, envelope, shown),
        "journal": visit.desk.past.enabled,
    }


def _timelines(explained: Any) -> list[tuple[Any, list[Any]]]:
    """Each subscription's standing with its attempts, oldest first; those without a standing are done."""
    standings = {standing.subscription: standing for standing in explained.standings}
    attempts: dict[str, list[Any]] = {name: [] for name in standings}
    for attempt in explained.attempts:
        attempts.setdefault(attempt.subscription, []).append(attempt)
    return [(standings.get(name), made) for name, made in attempts.items()]


def _publish(visit: Visit, id_: UUID, envelope: Any, shown: Any) -> str | None:
    """The command that publishes the same once more."""
    if shown is None or shown.hidden or shown.error is not None:
        return None
    try:
        payload = json.dumps(shown.payload, allow_nan=False)
    except (TypeError, ValueError):
        return None
    key = ["--key", envelope.key] if envelope.key else []
    said = command("publish", visit.desk.target, envelope.name, payload, *key)
    return said if len(said) < 4000 else f"postbus events show {shlex.quote(visit.desk.target)} {id_} --json"


EVENTS = Page(path="/events", template="events.html", view=_list, section="events", title="Events", jump="e")
EVENT = Page(path="/events/{id}", template="event.html", view=_one, section="events", title="Event")
