"""Dead letters: problems with how often each happened, the letters of one, and one letter."""

from __future__ import annotations

from typing import Any

from ...hold import OUTBOX
from ..commands import command
from ..letters import Chosen
from ..payload import as_text, tree_of
from ..shown import shown_of
from ..visit import NoSuchPage, Visit, uuid_of
from .page import Page

__all__ = ["DEAD", "LETTER", "LETTERS"]

_GROUPS = 100


async def _groups(visit: Visit) -> dict[str, Any]:
    sub, wanted = visit.text("sub") or None, visit.text("q").casefold()
    counted = await visit.desk.groups.look()
    groups = [
        group
        for group in counted.groups
        if (group.subscription != OUTBOX if sub is None else group.subscription == sub)
        and wanted in " ".join((group.error, group.shape, *group.names)).casefold()
    ]
    chosen = Chosen(sub=sub)
    tabs = [(one.name, one.dead) for one in visit.snapshot.stats.values() if one.dead]
    if visit.snapshot.outbox is not None and visit.snapshot.outbox.dead:
        tabs.append((OUTBOX, visit.snapshot.outbox.dead))
    return {
        "sub": sub,
        "q": visit.text("q"),
        "counted": counted,
        "groups": groups[:_GROUPS],
        "more": max(0, len(groups) - _GROUPS),
        "total": dict(tabs).get(sub, 0) if sub is not None else visit.snapshot.stats.dead,
        "tabs": tabs,
        "outbox": OUTBOX,
        "chosen": chosen,
        "command": command("dead", "groups", visit.desk.target, *(("--sub", sub) if sub else ())),
    }


async def _letters(visit: Visit) -> dict[str, Any]:
    chosen = Chosen.by(visit)
    counted = await visit.desk.groups.look() if chosen.group is not None else None
    group = None
    if counted is not None:
        group = next((one for one in counted.groups if one.id == chosen.group), None)
    letters = await chosen.page(visit.desk, limit=visit.limit, after=visit.id("after"))
    return {
        "chosen": chosen,
        "group": group,
        "letters": letters,
        "older": visit.here(after=str(letters[-1].id)) if len(letters) == visit.limit else None,
        "first": visit.here(after="") if visit.text("after") else None,
        "subs": [*visit.snapshot.stats, *([OUTBOX] if visit.snapshot.outbox is not None else [])],
        "filtered": bool(chosen.name or chosen.key or chosen.error or chosen.span),
        "command": chosen.command(visit.desk.target, "list"),
    }


async def _one(visit: Visit) -> dict[str, Any]:
    wanted = uuid_of(visit.path("id"))
    letter = None if wanted is None else await visit.bus.dead.get(wanted)
    if letter is None:
        raise NoSuchPage(f"there is no dead letter {visit.path('id')}: it may have been replayed or discarded")
    shown = shown_of(letter.envelope, visit.bus.catalog, visit.desk.redact)
    return {
        "letter": letter,
        "shown": shown,
        "tree": tree_of(shown.payload),
        "payload_text": as_text(shown.payload),
        "chosen": Chosen(sub=letter.subscription, ids=(letter.id,)),
        "amendable": not shown.hidden and shown.error is None and as_text(shown.payload) is not None,
        "command": command("dead", "show", visit.desk.target, str(letter.id)),
    }


DEAD = Page(path="/dead", template="dead.html", view=_groups, section="dead", title="Dead letters", jump="d")
LETTERS = Page(path="/dead/letters", template="letters.html", view=_letters, section="dead", title="Dead letters")
LETTER = Page(path="/dead/{id}", template="letter.html", view=_one, section="dead", title="Dead letter")
