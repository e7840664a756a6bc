"""Events, dead letters and subscriptions as plain data with stable keys: what `--json` prints and `export` writes."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

from ..catalog import Catalog
from ..delivery import DeadLetter
from ..envelope import Envelope
from ..errors import CodecError
from ..inspection import OutboxStats
from ..retrying import Retrying
from ..transport import StoredEvent, SubscriptionInfo, SubscriptionStats, WorkerInfo

__all__ = [
    "of_envelope",
    "of_letter",
    "of_outbox",
    "of_retry",
    "of_stats",
    "of_stored",
    "of_subscription",
    "of_worker",
    "payload_of",
]


def of_envelope(envelope: Envelope) -> dict[str, Any]:
    """What was published, without its body."""
    return {
        "id": str(envelope.id),
        "name": envelope.name,
        "topic": envelope.topic,
        "key": envelope.key,
        "version": envelope.version,
        "time": envelope.time.isoformat(),
        "expires_at": None if envelope.expires_at is None else envelope.expires_at.isoformat(),
        "headers": dict(envelope.headers),
        "format": envelope.format,
        "size": len(envelope.body),
    }


def payload_of(envelope: Envelope, catalog: Catalog) -> dict[str, Any]:
    """The payload as plain data, or why it cannot be shown; and the bytes it is made of."""
    body = {"body_base64": base64.b64encode(envelope.body).decode()}
    try:
        return {"payload": catalog.open(envelope, None).payload, **body}
    except CodecError as error:
        return {"payload": None, "undecodable": str(error), **body}


def of_letter(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter, without its body."""
    return {
        "id": str(letter.id),
        "subscription": letter.subscription,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "error": letter.failure.error if letter.failure else None,
        "message": letter.failure.message if letter.failure else None,
        "buried_at": letter.buried_at.isoformat(),
        "event": of_envelope(letter.envelope),
    }


def of_retry(one: Retrying) -> dict[str, Any]:
    """What waits for another attempt, without its body."""
    return {
        "subscription": one.subscription,
        "attempt": one.attempt,
        "due_at": one.due_at.isoformat(),
        "error": one.failure.error if one.failure else None,
        "message": one.failure.message if one.failure else None,
        "event": of_envelope(one.envelope),
    }


def of_stored(stored: StoredEvent) -> dict[str, Any]:
    """A stored event, without its body."""
    return {**of_envelope(stored.envelope), "states": dict(stored.states), "cursor": stored.cursor}


def of_subscription(info: SubscriptionInfo) -> dict[str, Any]:
    """A durable subscription."""
    spec = asdict(info.spec)
    declared = None if info.declared_at is None else info.declared_at.isoformat()
    return {"id": info.id, **spec, "paused": info.paused, "declared_at": declared}


def of_stats(stats: SubscriptionStats) -> dict[str, Any]:
    """How a subscription stands."""
    return asdict(stats)


def of_outbox(outbox: OutboxStats) -> dict[str, Any]:
    """How an outbox stands."""
    return {**asdict(outbox), "relays": [of_worker(relay) for relay in outbox.relays]}


def of_worker(worker: WorkerInfo) -> dict[str, Any]:
    """A live worker."""
    return {
        **asdict(worker),
        "started_at": worker.started_at.isoformat(),
        "seen_at": None if worker.seen_at is None else worker.seen_at.isoformat(),
    }
