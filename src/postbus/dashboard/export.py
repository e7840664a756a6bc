"""Dead letters as JSON lines, with no more in them than the pages show."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from ..delivery import DeadLetter
from .letters import Chosen
from .shown import shown_of
from .visit import Visit

__all__ = ["exported"]


async def exported(visit: Visit, chosen: Chosen) -> AsyncIterator[bytes]:
    """One line for each letter; `postbus publish --file` reads those of which nothing is hidden."""
    query = {name: value for name, value in chosen.query.items() if value is not None}
    with visit.desk.pulse.held():
        async for letter in visit.bus.dead.each(chosen.sub, **query):
            yield json.dumps(_record(visit, letter), default=str).encode() + b"\n"


def _record(visit: Visit, letter: DeadLetter) -> dict[str, Any]:
    envelope, failure = letter.envelope, letter.failure
    shown = shown_of(envelope, visit.bus.catalog, visit.desk.redact)
    body = {} if shown.hidden else {"body_base64": base64.b64encode(envelope.body).decode()}
    return {
        "id": str(letter.id),
        "subscription": letter.subscription,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "error": None if failure is None else failure.error,
        "message": None if failure is None else failure.message,
        "traceback": letter.error,
        "buried_at": letter.buried_at.isoformat(),
        "event": {
            "id": str(envelope.id),
            "name": envelope.name,
            "topic": envelope.topic,
            "key": envelope.key,
            "version": envelope.version,
            "time": envelope.time.isoformat(),
            "headers": dict(shown.headers),
            "format": envelope.format,
            "size": len(envelope.body),
        },
        "payload": shown.payload,
        **({} if shown.error is None else {"undecodable": shown.error}),
        **body,
    }
