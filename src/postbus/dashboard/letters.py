"""Which dead letters somebody means: some, a group, or all that match; and what is done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from ..delivery import DeadLetter
from ..event import valid_name
from ..hold import OUTBOX
from .commands import command
from .counting import count_up
from .desk import Desk
from .tasks import Task
from .visit import Span, Visit, uuid_of

__all__ = ["Chosen"]

_CHUNK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The dead letters that a page, a form or a link names.

    Attributes:
        sub: of this subscription; None for all.
        ids: these only.
        group: of this group.
        name, key, error: as in `DeadQuery`.
        span: when they were buried.
    """

    sub: str | None = None
    ids: tuple[UUID, ...] = ()
    group: str | None = None
    name: str | None = None
    key: str | None = None
    error: str | None = None
    span: Span = field(default_factory=Span)

    @classmethod
    def by(cls, visit: Visit) -> Chosen:
        """As the parameters say.

        Raises:
            InvalidName: when one of them cannot be what it should.
        """
        sub, group = visit.text("sub"), visit.text("group")
        picked = visit.many("ids")[:_CHUNK]
        return cls(
            sub=valid_name(sub, "subscription name") if sub else None,
            ids=tuple(found for text in picked if (found := uuid_of(text)) is not None),
            group=group if group.isalnum() and len(group) <= 32 else None,
            name=visit.event_name("name"),
            key=visit.key("key"),
            error=visit.text("error") or None,
            span=visit.span,
        )

    @property
    def query(self) -> dict[str, Any]:
        """As `bus.dead` takes it."""
        given = {"ids": self.ids or None, "name": self.name, "key": self.key, "error": self.error, "group": self.group}
        return {**given, **self.span.query}

    @property
    def filters(self) -> dict[str, str]:
        """What goes into a link; ids do not."""
        given = {"sub": self.sub, "group": self.group, "name": self.name, "key": self.key, "error": self.error}
        return {**{name: value for name, value in given.items() if value is not None}, **self.span.fields}

    def command(self, target: str, action: Literal["replay", "discard", "export", "list"]) -> str:
        """The command that does the same."""
        kept = {name: value for name, value in self.filters.items() if name not in self.span.fields}
        options = {**kept, **({"ids": ",".join(map(str, self.ids))} if self.ids else {})}
        words = [*(word for name, value in options.items() for word in (f"--{name}", value)), *self.span.words]
        every = ["--all"] if not words and action in ("replay", "discard") else []
        return command("dead", action, target, *words, *every)

    async def count(self, desk: Desk) -> tuple[int, bool]:
        """How many there are, and whether that is all of them: counting ends before anybody grows impatient."""
        if self.ids:
            return len(self.ids), True
        if self.name is self.key is self.error is None and not self.span:
            if self.group is not None:
                counted = await desk.groups.look()
                return len(desk.groups.ids(self.group)), counted.complete
            snapshot = await desk.pulse.now()
            if self.sub == OUTBOX and snapshot.outbox is not None:
                return snapshot.outbox.dead, True
            return (snapshot.stats.dead if self.sub is None else snapshot.stats_of(self.sub).dead), True
        return await count_up(1 async for _ in desk.bus.dead.each(self.sub, **self.query))

    async def page(self, desk: Desk, *, limit: int, after: UUID | None) -> Sequence[DeadLetter]:
        """Some of them, oldest burial first; those of a group by its ids, which are known already."""
        query: dict[str, Any] = {"name": self.name, "key": self.key, "error": self.error, **self.span.query}
        if self.group is None:
            return await desk.bus.dead.list(self.sub, limit=limit, after=after, ids=self.ids or None, **query)
        ids = desk.groups.ids(self.group)
        place = ids.index(after) + 1 if after in ids else 0
        found: list[DeadLetter] = []
        while len(found) < limit and place < len(ids):
            some = tuple(ids[place : place + _CHUNK])
            found += await desk.bus.dead.list(self.sub, limit=limit - len(found), ids=some, **query)
            place += _CHUNK
        return found

    async def do(self, desk: Desk, action: Literal["replay", "discard"], task: Task) -> int:
        """Replay or discard all of them, as they are now: one that is buried again meanwhile stays."""
        act = desk.bus.dead.replay if action == "replay" else desk.bus.dead.discard
        subs = (
            [self.sub] if self.sub is not None else [one.name for one in (await desk.bus.stats()).values() if one.dead]
        )
        query = {name: value for name, value in self.query.items() if name != "ids" and value is not None}
        done = 0
        for sub in subs:

            def progressed(count: int, before: int = done) -> None:
                task.done = before + count
                task.total = max(task.total, task.done)

            done += await act(sub, self.ids or None, progress=progressed, **query)
            desk.groups.forget(sub)
        task.done = done
        return done
